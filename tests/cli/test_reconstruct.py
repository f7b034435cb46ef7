"""The command ``reconstruct``, against what the library says."""

import csv
import json
import math
from pathlib import Path

import pytest

from bipcore.cli.main import main
from bipcore.evaluation.reconstruction import ReconstructionErrors, llm_bip_bound
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning.plan import BlockPlan, PruningPlan, load_plan
from bipcore.settings import PRESETS
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.views.reconstruction import ERRORS
from tests.helpers.folders import model_folder
from tests.helpers.passes import counted_passes

SETTINGS = ("--samples", "4", "--seq-len", "16", "--window", "16", "--max-tokens", "64")
EVALUATION = EvaluationSpec(window=16, max_tokens=64)


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(model_folder(tmp_path / "model"))


@pytest.fixture
def measure(run_json, model):
    """The rows of the command with these options, by the model that they are of."""

    def command(*options: object) -> tuple[dict, dict[str, list[dict]]]:
        found = run_json("reconstruct", model, *SETTINGS, *options)
        rows: dict[str, list[dict]] = {}
        for row in found["errors"]:
            rows.setdefault(row["model"], []).append(row)
        return found, rows

    return command


def _spec(model: str, criterion: str = "llm-bip") -> ScoreSpec:
    return ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=16), criterion)


def _plan_file(model: str, **settings) -> Path:
    plan = Pipeline().plan(_spec(model), PlanSpec(**settings))
    Path("plan.json").write_text(plan.to_json())
    return Path("plan.json")


def test_errors_and_bounds_are_those_of_the_library(measure, model):
    _, rows = measure("--sparsity", 0.5, "--criteria", "llm-bip,wanda-sp")
    pipeline = Pipeline()
    plans = {
        name: pipeline.plan(_spec(model, name), PlanSpec(sparsity=0.5))
        for name in ("llm-bip", "wanda-sp")
    }
    errors = pipeline.reconstruction(ModelSpec(model), plans, EVALUATION)
    bip = pipeline.scores(_spec(model))
    assert list(rows) == list(plans)
    for name, plan in plans.items():
        assert [row["block"] for row in rows[name]] == [0, 1, 2]
        assert [row["bound"] for row in rows[name]] == list(llm_bip_bound(bip, plan))
        for kind in ERRORS:
            assert [row[kind] for row in rows[name]] == list(getattr(errors[name], kind))


def test_without_a_list_the_criterion_is_measured(measure):
    found, rows = measure("--criterion", "magnitude")
    assert list(rows) == list(found["plans"]) == ["magnitude"]
    assert found["plans"]["magnitude"]["realised"] == pytest.approx(0.2, abs=0.02)


def test_a_second_call_runs_no_pass(measure):
    first = measure("--criteria", "llm-bip,random")
    with counted_passes() as passes:
        assert measure("--criteria", "random,llm-bip")[1] == first[1]
    assert passes == []


def test_a_preset_gives_its_settings_to_every_criterion(measure):
    found, _ = measure("--criteria", "wanda-sp,random", "--preset", "recommended")
    wanted = PRESETS["recommended"].values
    for name in ("wanda-sp", "random"):
        said = found["plans"][name]
        assert said["criterion"] == name
        assert said["compensation"] == wanted["compensation"]
        assert said["protect_first"] == wanted["protect_first"]


def test_a_preset_alone_measures_its_criterion(measure):
    assert list(measure("--preset", "recommended")[1]) == [
        PRESETS["recommended"].values["criterion"]
    ]


def test_options_go_to_their_criterion_alone(measure):
    options = ("--criterion", "random", "--option", "seed=3", "--criteria", "random,magnitude")
    plans = measure(*options)[0]["plans"]
    assert plans["random"]["options"]["seed"] == 3
    assert plans["magnitude"]["options"] == {}


def test_the_plan_of_a_file_is_a_line_of_its_own(measure, model):
    file = _plan_file(model, sparsity=0.5)
    found, rows = measure("--plan", file)
    assert list(rows) == ["plan"]
    assert found["plans"]["plan"]["realised"] == load_plan(file).realised
    assert rows["plan"][1]["local"] > 0


def test_beside_the_plan_of_a_file_criteria_have_plans_of_their_own(measure, model):
    found, rows = measure("--plan", _plan_file(model, sparsity=0.5), "--criteria", "llm-bip,wanda")
    assert list(rows) == ["plan", "llm-bip", "wanda"]
    realised = [found["plans"][name]["realised"] for name in rows]
    assert realised == pytest.approx([0.5, 0.2, 0.2], abs=0.02)
    assert rows["plan"][0]["local"] != rows["llm-bip"][0]["local"]


def test_a_plan_by_hand_without_a_spec_is_measured(measure, model):
    shape = load_plan(_plan_file(model)).shape
    block = BlockPlan(tuple(range(1, 8)), tuple(range(30, 96)))
    Path("plan.json").write_text(PruningPlan(shape, (block,) * 3).to_json())
    assert len(measure("--plan", "plan.json")[1]["plan"]) == 3


def test_the_table_is_for_people(run, model):
    table = run("reconstruct", model, *SETTINGS, "--criteria", "llm-bip,random")
    assert "Reconstruction error of" in table
    assert "accumulated relative" in table
    assert table.count("random") == 3
    assert "…" not in table


def test_the_csv_file_has_every_row(measure, tmp_path):
    found, _ = measure("--criteria", "llm-bip,random", "--csv", tmp_path / "e.csv")
    with (tmp_path / "e.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["block", "model", *ERRORS, "bound"]
    assert [float(row["local"]) for row in rows] == [row["local"] for row in found["errors"]]


def test_what_is_no_number_is_null(measure, monkeypatch):
    nothing = ReconstructionErrors((0.0, math.nan), (0.0, math.inf), (0.0, 1.0))
    monkeypatch.setattr(Pipeline, "reconstruction", lambda self, spec, plans, text: _all(plans))
    monkeypatch.setattr(
        "bipcore.evaluation.reconstruction.llm_bip_bound", lambda scores, plan: (0.0, 1.0)
    )

    def _all(plans):
        return dict.fromkeys(plans, nothing)

    rows = measure("--criterion", "magnitude")[1]["magnitude"]
    assert rows[0]["accumulated_relative"] is None
    assert [rows[1][kind] for kind in ERRORS] == [None] * 4


def test_the_json_is_strict(run, model):
    def refuse(constant):
        raise AssertionError(constant)

    text = run("reconstruct", model, *SETTINGS, "--sparsity", 0, "--json")
    assert json.loads(text, parse_constant=refuse)["errors"][0]["local"] == 0


REFUSED = {
    "unknown": (("--criteria", "llm-bip,best"), "'best'"),
    "unknown beside a plan": (("--plan", "plan.json", "--criteria", "best"), "'best'"),
    "empty": (("--criteria", ""), "no criteria"),
    "hole": (("--criteria", "wanda,,random"), "is not a word"),
    "option of another": (("--criteria", "random", "--option", "seed=1"), "'llm-bip'"),
    "preset": (("--preset", "best"), "recommended"),
    "no plan": (("--plan", "nowhere.json"), "nowhere.json"),
    "allocation": (("--criteria", "llm-bip", "--allocation", "sublayer"), "sublayer"),
    "text": (("--text", "nowhere.txt"), "nowhere.txt"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_measured_is_one_sentence_before_any_pass(capsys, cache, model, case):
    options, said = REFUSED[case]
    _plan_file(model)
    Pipeline().store.clear()
    with counted_passes() as passes:
        status = main(["reconstruct", model, *SETTINGS, *options])
    printed = capsys.readouterr()
    assert (status, printed.out, passes) == (2, "", [])
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("error: ")
    assert said in line


@pytest.mark.parametrize(("window", "said"), [("129", "128 positions"), ("1", "at least 2, not 1")])
def test_a_window_that_the_model_cannot_read_is_refused(capsys, cache, model, window, said):
    assert main(["reconstruct", model, *SETTINGS, "--window", window]) == 2
    assert said in capsys.readouterr().err


def test_the_plan_of_another_model_is_refused(capsys, cache, model, tmp_path):
    file = _plan_file(model)
    other = str(model_folder(tmp_path / "other", "mistral"))
    assert main(["reconstruct", other, *SETTINGS, "--plan", str(file)]) == 2
    assert "another shape" in capsys.readouterr().err
