"""``--plan FILE``: commands that take a plan as it is, made here or by hand."""

import json
from pathlib import Path

import pytest

from bipcore.cli.main import main
from bipcore.export.export import load_pruned
from bipcore.export.public import public_plan
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning.plan import BlockPlan, PruningPlan, load_plan
from bipcore.specs import CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.runs import RunStore
from tests.helpers.folders import model_folder
from tests.helpers.passes import counted_passes

SCORE = ("--samples", "4", "--seq-len", "16")
EVALUATION = ("--window", "16", "--max-tokens", "64")
COMMANDS = {
    "evaluate": (*SCORE, *EVALUATION),
    "generate": (*SCORE, "--prompt", "hello", "--max-new-tokens", "3"),
    "prune": (*SCORE, *EVALUATION, "--output", "out"),
    "score": SCORE,
    "profile": ("--seq-len", "16", "--repeats", "1"),
    "profile --shapes-only": ("--seq-len", "16"),
}
MADE = {
    "plain": PlanSpec(sparsity=0.4),
    "global": PlanSpec(sparsity=0.4, allocation="global", floor=0.2),
    "least-squares": PlanSpec(sparsity=0.4, compensation="least-squares", protect_first=1),
    "bias": PlanSpec(sparsity=0.4, compensation="bias"),
    "propagated": PlanSpec(sparsity=0.4, propagation="pruned"),
}
each_command = pytest.mark.parametrize("command", COMMANDS)
each_made = pytest.mark.parametrize("made", MADE)


def _words(command: str, model: str, *more: object) -> list[str]:
    name, *flags = command.split()
    return [name, model, *COMMANDS[command], *flags, *map(str, more)]


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    return str(model_folder(tmp_path / "model"))


def _make(model: str, settings: PlanSpec) -> PruningPlan:
    calibration = CalibrationSpec(samples=4, seq_len=16)
    return Pipeline().plan(ScoreSpec(ModelSpec(model), calibration, "wanda-sp"), settings)


@pytest.fixture
def by_hand(model) -> Path:
    """A plan with nothing in its spec: every block loses a head and the first channels."""
    shape = _make(model, PlanSpec(sparsity=0)).shape
    block = BlockPlan(tuple(range(1, 8)), tuple(range(30, 96)))
    file = Path("by_hand.json")
    file.write_text(PruningPlan(shape, (block,) * len(shape.blocks)).to_json())
    return file


@each_made
def test_evaluate_measures_the_model_of_the_file(run_json, model, made):
    plan = _make(model, MADE[made])
    Path("plan.json").write_text(plan.to_json())
    found = run_json(*_words("evaluate", model, "--plan", "plan.json"))
    assert found["plan"] == json.loads(plan.to_json())["spec"]
    assert found["realised"] == plan.realised
    settings = {name: value for name, value in vars(MADE[made]).items() if value != ""}
    options = [w for n, v in settings.items() for w in (f"--{n.replace('_', '-')}", v)]
    same = run_json(*_words("evaluate", model, "--criterion", "wanda-sp", *options))
    assert found["pruned"] == same["pruned"] != found["dense"]


@each_made
def test_prune_exports_the_model_of_the_file_and_the_plan_with_it(run_json, model, made):
    plan = _make(model, MADE[made])
    Path("plan.json").write_text(plan.to_json())
    found = run_json(*_words("prune", model, "--plan", "plan.json"))
    assert load_plan("out") == public_plan(plan)
    read, _ = load_pruned("out")
    assert sum(parameter.numel() for parameter in read.parameters()) == found["parameters"]
    again = run_json(*_words("evaluate", model, "--plan", "out"))  # an export has its plan in it
    assert again["pruned"]["perplexity"] == found["perplexity_after"]


@each_command
def test_a_plan_file_alone_is_enough(run_json, model, command):
    plan = _make(model, MADE["plain"])
    Path("plan.json").write_text(plan.to_json())
    found = run_json(*_words(command, model, "--plan", "plan.json"))
    after = found["pruned"] if command.startswith("profile") else found
    if command in ("evaluate", "score", "prune") or command.startswith("profile"):
        assert after["parameters"] == plan.pruned_shape.parameters
    else:
        assert {"dense", "pruned"} <= found.keys()


@each_command
def test_a_plan_by_hand_without_a_spec_is_taken(run_json, model, by_hand, command):
    found = run_json(*_words(command, model, "--plan", by_hand))
    after = found["pruned"] if command.startswith("profile") else found
    if "parameters" in after:
        assert after["parameters"] == load_plan(by_hand).pruned_shape.parameters
    if "plan" in found:
        assert found["plan"] == {}


@each_command
def test_a_plan_by_hand_is_taken_where_the_answer_is_a_table(run, model, by_hand, command):
    assert run(*_words(command, model, "--plan", by_hand))


def test_with_a_plan_file_nothing_is_scored(run, model, by_hand):
    run("cache", "clear")
    run(*_words("evaluate", model, "--plan", by_hand, "--criterion", "wanda"))
    assert {entry.kind for entry in RunStore().entries()} == {"evaluations"}


def _fails(capsys, words: list[str]) -> str:
    """The one sentence of a command that has to fail before any forward pass."""
    with counted_passes() as passes:
        status = main(words)
    printed = capsys.readouterr()
    assert (status, printed.out, passes) == (2, "", [])
    (line,) = printed.err.strip().splitlines()
    assert line.startswith("error: ")
    assert not Path("out").exists()
    return line


@each_command
def test_a_plan_for_another_model_is_refused(capsys, cache, model, by_hand, command):
    other = str(model_folder(Path("other"), "mistral"))
    assert "another shape" in _fails(capsys, _words(command, other, "--plan", by_hand))


@each_command
@pytest.mark.parametrize("content", ["", "{}", "no plan", None], ids=repr)
def test_a_file_that_is_no_plan_is_refused(capsys, cache, model, command, content):
    if content is not None:
        Path("plan.json").write_text(content)
    said = _fails(capsys, _words(command, model, "--plan", "plan.json"))
    assert "plan.json" in said or "not a pruning plan" in said


def test_a_plan_without_any_attention_is_refused(capsys, cache, model, by_hand):
    plan = load_plan(by_hand)
    blocks = (BlockPlan((), tuple(range(96))),) * len(plan.blocks)
    by_hand.write_text(PruningPlan(plan.shape, blocks).to_json())
    assert "attention" in _fails(capsys, _words("evaluate", model, "--plan", by_hand))
