"""Presets, and the options of the command line that they set: what is said out loud wins."""

from dataclasses import fields
from pathlib import Path

import pytest

from bipcore.cli.main import main
from bipcore.criteria import CRITERIA
from bipcore.errors import InputError
from bipcore.pruning.plan import load_plan
from bipcore.pruning.resolving import for_criterion
from bipcore.settings import PRESETS, find_preset
from bipcore.specs import PlanSpec, ScoreSpec
from bipcore.store.runs import RunStore
from tests.helpers.folders import model_folder
from tests.helpers.passes import counted_passes

SCORE = ("--samples", "6", "--seq-len", "64")
EVALUATION = ("--window", "16", "--max-tokens", "64")
COMMANDS = {
    "evaluate": (*SCORE, *EVALUATION),
    "generate": (*SCORE, "--prompt", "hello", "--max-new-tokens", "3"),
    "prune": (*SCORE, *EVALUATION, "--output", "out"),
    "score": SCORE,
    "profile": ("--seq-len", "16", "--repeats", "1"),
}
each_preset = pytest.mark.parametrize("preset", PRESETS.values(), ids=PRESETS)
each_command = pytest.mark.parametrize("command", COMMANDS)


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(model_folder(tmp_path / "model"))


@pytest.fixture
def fails(capsys, cache):
    """Runs a command that has to fail before any forward pass; the one sentence it says."""

    def command(*words: object) -> str:
        with counted_passes() as passes:
            status = main([str(word) for word in words])
        printed = capsys.readouterr()
        assert (status, printed.out, passes) == (2, "", [])
        (line,) = printed.err.strip().splitlines()
        assert line.startswith("error: ")
        assert all(entry.whole for entry in RunStore().entries())
        return line

    return command


@each_preset
def test_a_preset_sets_what_specs_have(preset):
    known = {field.name for field in (*fields(PlanSpec), *fields(ScoreSpec))}
    assert set(preset.values) <= known - {"model", "calibration", "source", "sparsity"}
    assert preset.text.endswith(".")
    assert find_preset(preset.name) is preset


@each_preset
@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_preset_goes_with_every_criterion_that_it_leaves_free(preset, criterion):
    if preset.values.get("criterion", criterion) == criterion:
        values = {name: value for name, value in preset.values.items() if name != "criterion"}
        for_criterion(PlanSpec(**values), CRITERIA[criterion])


def test_the_paper_protects_and_compensates_nothing_and_leaves_the_criterion_free():
    values = dict(find_preset("paper").values)
    assert "criterion" not in values
    assert PlanSpec(**values) == PlanSpec()
    assert CRITERIA["llm-bip"].compensation == "none"


def test_an_unknown_preset_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match="'best'; there are paper, recommended, slimgpt"):
        find_preset("best")


def _expected(preset, criterion: str | None = None) -> dict:
    """What the plan's spec says under a preset, where that is known without running anything."""
    values = dict(preset.values) | ({"criterion": criterion} if criterion else {})
    own = CRITERIA[values.setdefault("criterion", "llm-bip")]
    for name in ("allocation", "compensation"):
        if values.get(name) == "auto":
            values[name] = getattr(own, name)
    return values


@each_preset
@pytest.mark.parametrize("command", ["evaluate", "generate", "prune"])
def test_a_preset_reaches_the_plan(run_json, model, command, preset):
    words = (model, *COMMANDS[command], "--preset", preset.name, "--sparsity", "0.3")
    spec = run_json(command, *words)["plan"]
    expected = _expected(preset)
    assert {name: spec[name] for name in expected} == expected
    assert spec["sparsity"] == 0.3


def test_a_preset_alone_prunes_nothing(run_json, model):
    found = run_json("evaluate", model, *SCORE, *EVALUATION, "--preset", "recommended")
    assert "pruned" not in found
    assert "plan" not in found


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("criterion", "magnitude"),
        ("criterion", "llm-bip"),
        ("allocation", "global"),
        ("allocation", "auto"),
        ("protect_first", 2),
        ("protect_first", 0),
        ("protect_last", 1),
        ("compensation", "none"),
        ("compensation", "bias"),
        ("propagation", "pruned"),
    ],
)
@each_preset
def test_an_option_that_is_said_wins_over_the_preset(run_json, model, preset, option, value):
    flag = f"--{option.replace('_', '-')}"
    words = (model, *SCORE, *EVALUATION, "--sparsity", "0.2", "--preset", preset.name)
    spec = run_json("evaluate", *words, flag, value)["plan"]
    expected = _expected(preset, value if option == "criterion" else None)
    if value != "auto":
        expected[option] = value
    else:
        expected["allocation"] = CRITERIA[expected["criterion"]].allocation
    assert {name: spec[name] for name in expected} == expected


def test_without_a_preset_the_defaults_hold(run_json, model):
    found = run_json("evaluate", model, *SCORE, *EVALUATION, "--sparsity", "0.3")
    assert found["spec"]["criterion"] == ScoreSpec().criterion == "llm-bip"
    defaults = {"protect_first": 0, "protect_last": 0, "round_to": 1, "floor": 0.0}
    defaults |= {"allocation": "uniform", "compensation": "none", "propagation": "dense"}
    assert {name: found["plan"][name] for name in defaults} == defaults


@pytest.mark.parametrize(("criterion", "kind"), [("flap", "bias"), ("wanda", "none")])
def test_the_paper_is_what_each_criterions_authors_do(run_json, model, criterion, kind):
    words = (model, *SCORE, *EVALUATION, "--sparsity", "0.2", "--preset", "paper")
    spec = run_json("evaluate", *words, "--criterion", criterion)["plan"]
    assert (spec["allocation"], spec["compensation"]) == (CRITERIA[criterion].allocation, kind)


@each_preset
def test_costs_are_profiled_without_scoring_or_refitting(run_json, model, preset):
    words = (model, *COMMANDS["profile"], "--preset", preset.name, "--sparsity", "0.3")
    with counted_passes() as passes:
        found = run_json("profile", *words)
    assert found["pruned"]["parameters"] < found["parameters"]
    assert len(passes) <= 8  # warm-up and one measured pass, of two models
    kinds = {entry.kind for entry in RunStore().entries()}
    assert kinds & {"second-moments", "statistics"} == set()
    counted = run_json("profile", *words, "--shapes-only")
    assert counted["pruned"]["parameters"] == found["pruned"]["parameters"]


def test_a_least_squares_refit_costs_nothing_to_run_and_is_left_out(run_json, model):
    words = (model, *COMMANDS["profile"], "--sparsity", "0.3")
    plain = run_json("profile", *words)["pruned"]
    for options in (["--compensation", "least-squares"], ["--propagation", "pruned"]):
        found = run_json("profile", *words, *options)["pruned"]
        assert (found["parameters"], found["macs"]) == (plain["parameters"], plain["macs"])
    assert "second-moments" not in {entry.kind for entry in RunStore().entries()}


WRONG = {
    "preset": ("--preset", "best", "paper, recommended, slimgpt"),
    "compensation": ("--compensation", "glue", "auto, none, bias, least-squares"),
    "propagation": ("--propagation", "sideways", "dense, pruned"),
    "allocation": ("--allocation", "fair", "auto, uniform, paper, log, linear, owl"),
    "floor-beyond": ("--floor", "1.5", "from 0 to 1, not 1.5"),
    "floor-negative": ("--floor", "-0.1", "from 0 to 1"),
    "floor-nan": ("--floor", "nan", "from 0 to 1"),
    "floor-abc": ("--floor", "abc", "--floor"),
    "sublayer": ("--allocation", "sublayer", "does not rank whole sublayers"),
    "protect-all": ("--protect-first", "3", "protect fewer"),
}


@each_command
@pytest.mark.parametrize("case", WRONG)
def test_what_is_unknown_is_refused_in_one_sentence_before_any_pass(fails, model, command, case):
    flag, value, says = WRONG[case]
    words = (model, *COMMANDS[command], "--sparsity", "0.2", flag, value)
    assert says in fails(command, *words)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--propagation", "pruned", "--criterion", "random"], "does not read activations"),
        (["--propagation", "pruned", "--allocation", "global"], "depend on the scores"),
        (["--criterion", "flap", "--propagation", "pruned"], "allocation 'global'"),
        (["--allocation", "global", "--floor", "0.9"], "at most"),
        (["--criterion", "blockpruner", "--allocation", "uniform"], "ranks whole sublayers"),
        (["--preset", "recommended", "--criterion", "blockpruner"], "ranks whole sublayers"),
    ],
    ids=" ".join,
)
def test_what_does_not_go_together_is_refused_before_any_pass(fails, model, options, says):
    assert says in fails("evaluate", model, *SCORE, *EVALUATION, "--sparsity", "0.4", *options)


def test_the_help_names_presets_and_defaults(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    said = run("evaluate", "--help")
    assert "paper, recommended, slimgpt" in said
    for default in ("llm-bip", "dense"):
        assert f"(default: {default})" in said


def test_the_preset_is_written_into_the_plan_of_an_export(run, model):
    words = ("--sparsity", "0.3", "--preset", "recommended", "--no-evaluate")
    run("prune", model, *SCORE, *words, "--output", "out")
    spec = load_plan("out").spec
    expected = _expected(find_preset("recommended"))
    assert {name: spec[name] for name in expected} == expected
