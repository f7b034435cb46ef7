"""The command ``zero-shot``."""

import csv
import json
from dataclasses import replace

import pytest

from bipcore.data.tasks import KNOWN
from bipcore.evaluation.zero_shot import average
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import (
    SEVEN,
    CalibrationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
    ZeroShotSpec,
)
from bipcore.store.kinds import Kind
from bipcore.store.runs import RunStore
from tests.helpers.cli import Call, refusal, run_all
from tests.helpers.folders import model_folder, tree
from tests.helpers.tasks import ROWS, write_rows
from tests.helpers.tiny import one_thread  # noqa: F401

TINY = ("--samples", "4", "--seq-len", "16")


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    monkeypatch.setenv("BIPCORE_DATA", str(write_rows(tmp_path / "data")))
    monkeypatch.chdir(tmp_path)
    return str(model_folder(tmp_path / "model"))


def _score(model: str) -> ScoreSpec:
    return ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=16))


def test_it_prints_the_figures_of_the_library(run_json, model):
    asked = ("--tasks", "piqa,boolq", "--limit", "3", "--sparsity", "0.5", *TINY)
    said = run_json("zero-shot", model, *asked)
    pipeline, spec = Pipeline(), ZeroShotSpec(("piqa", "boolq"), limit=3)
    plan = pipeline.plan(_score(model), PlanSpec(sparsity=0.5))
    for name, which in (("dense", None), ("pruned", plan)):
        results = list(pipeline.zero_shot(ModelSpec(model), spec, which))
        more = [{"score": one.score, "limited": True} for one in results]
        assert said[name] == [
            one.to_dict() | extra for one, extra in zip(results, more, strict=True)
        ]
        assert said["average"][name] == average(results)
    assert said["plan"]["sparsity"] == 0.5
    assert said["zero_shot"]["limit"] == 3
    assert "recovered" not in said


def test_the_seven_are_measured_by_default_and_the_table_says_rows_and_errors(run, model):
    table = run("zero-shot", model)
    for task in SEVEN:
        (line,) = [line for line in table.splitlines() if line.split()[:1] == [task]]
        assert f"{len(ROWS[task])} of " in line
        assert " ± " in line
    assert "Dense acc_norm" in table
    assert "mean of 7" in table
    assert "not the benchmark" in " ".join(table.split())
    assert "boolq 3 of 3,270 rows" in " ".join(table.split())
    assert "Pruned" not in table


def test_all_rows_are_said_to_be_all(run, model, monkeypatch):
    monkeypatch.setitem(KNOWN, "piqa", replace(KNOWN["piqa"], rows=4))
    table = run("zero-shot", model, "--tasks", "piqa")
    assert "4 of 4" in table
    assert "All rows of every task were measured." in table


def test_every_figure_is_written(run, model, tmp_path):
    run("zero-shot", model, "--tasks", "piqa,boolq", "--csv", "out.csv", "--num-fewshot", "1")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["task"], row["metric"]) for row in rows] == [
        ("piqa", "acc"),
        ("piqa", "acc_norm"),
        ("boolq", "acc"),
    ]
    assert [row["counts"] for row in rows] == ["False", "True", "True"]
    assert {row["num_fewshot"] for row in rows} == {"1"}


def test_a_recovery_is_measured_beside_the_dense_and_the_pruned_model(run, run_json, model):
    pipeline = Pipeline()
    plan = pipeline.plan(_score(model), PlanSpec(sparsity=0.5))
    spec = RecoverySpec(
        source="builtin", samples=4, seq_len=16, batch_size=2, validation=2, learning_rate=3e-3
    )
    name = pipeline.recover(ModelSpec(model), plan, spec).name
    asked = ("--tasks", "arc_easy", "--recovery", name)
    said = run_json("zero-shot", model, *asked)
    tasks = ZeroShotSpec(("arc_easy",))
    for state, made in {"dense": (), "pruned": (plan,), "recovered": (plan, spec)}.items():
        (result,) = pipeline.zero_shot(ModelSpec(model), tasks, *made)
        assert said[state][0]["metrics"] == dict(result.metrics)
    table = run("zero-shot", model, *asked)
    assert "Recovered" in table


def test_a_second_run_measures_nothing(run_json, model, monkeypatch):
    first = run_json("zero-shot", model, "--tasks", "piqa")
    monkeypatch.setattr("bipcore.pipeline.measuring.run_task", lambda *_, **__: 1 / 0)
    assert (
        run_json("zero-shot", model, "--tasks", "piqa", "--batch-size", "2")["dense"]
        == first["dense"]
    )


RUN = "zero-shot {model} --tasks piqa"
CASES = {
    "unknown-task": "zero-shot {model} --tasks piqa,arc_eazy",
    "no-task": ["zero-shot", "{model}", "--tasks", ""],
    "task-twice": "zero-shot {model} --tasks piqa,piqa",
    "limit-0": f"{RUN} --limit 0",
    "limit-negative": f"{RUN} --limit -3",
    "limit-abc": f"{RUN} --limit many",
    "examples-negative": f"{RUN} --num-fewshot -1",
    "examples-too-many": f"{RUN} --num-fewshot 4",
    "batch-0": f"{RUN} --batch-size 0",
    "missing-data": "zero-shot {model} --tasks piqa,hellaswag",
    "no-data-folder": RUN,
    "bad-row": "zero-shot {model} --tasks piqa,boolq",
    "long-answer": "zero-shot {model} --tasks winogrande",
    "sparsity-one": f"{RUN} --sparsity 1.0",
    "unknown-recovery": f"{RUN} --recovery 0123456789abcdef",
    "recovery-and-sparsity": f"{RUN} --recovery 0123456789abcdef --sparsity 0.2",
    "missing-model": "zero-shot /nowhere/model --tasks piqa",
    "csv-not-writable": f"{RUN} --csv nowhere/out.csv",
}
SAYS = {
    "unknown-task": "Did you mean arc_easy",
    "no-task": "at least one of boolq",
    "limit-0": "limit in rows of each task is a whole number, at least 1, not 0",
    "limit-abc": "--limit",
    "examples-negative": "at least 0, not -1",
    "examples-too-many": "which has 4; ask for fewer examples",
    "batch-0": "at least 1, not 0",
    "missing-data": "has no tasks/hellaswag.jsonl, and the hub gave nothing",
    "no-data-folder": "BIPCORE_DATA is not set",
    "bad-row": "tasks/boolq.jsonl: the field 'answer' has to be",
    "long-answer": "only 128 positions",
    "sparsity-one": "from 0 to below 1, not 1.0",
    "unknown-recovery": "0123456789abcdef",
    "missing-model": "/nowhere/model does not exist",
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder in which all cases ran, and how each ended."""
    root = tmp_path_factory.mktemp("zero-shot-errors")
    names = {"model": str(model_folder(root / "model"))}
    gap = {"sentence": f"_ {'is long ' * 30}", "option1": "a", "option2": "b", "answer": "1"}
    rows = {
        "piqa": ROWS["piqa"],
        "boolq": [ROWS["boolq"][0] | {"answer": None}],
        "winogrande": [gap, gap],
    }
    data, calls = str(write_rows(root / "data", rows)), {}
    for case, said in CASES.items():
        cwd = root / "runs" / case
        cwd.mkdir(parents=True)
        env = {"BIPCORE_CACHE": str(root / "stores" / case), "BIPCORE_DATA": data}
        if case == "no-data-folder":
            env["BIPCORE_DATA"] = ""
        words = said.split() if isinstance(said, str) else said
        calls[case] = Call([word.format(**names) for word in words], str(cwd), env)
    return root, run_all(calls)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_exit_status_2(ended, case):
    refusal(ended[1][case])


@pytest.mark.parametrize("case", SAYS)
def test_the_sentence_says_what_was_wrong(ended, case):
    assert SAYS[case] in ended[1][case].err


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_left_half_written(ended, case):
    root, _ = ended
    assert tree(root / "runs" / case) == []
    assert all(entry.whole for entry in RunStore(root / "stores" / case).entries())
    assert not list(RunStore(root / "stores" / case).entries(Kind("zero-shot")))


def test_json_goes_through_whatever_lm_eval_prints(run, model):
    said = run("zero-shot", model, "--tasks", "hellaswag", "--limit", "1", "--json")
    assert json.loads(said)["dense"][0]["stderrs"] == {}
