"""A store that came to harm never gives a wrong figure: what is damaged is computed again."""

import shutil
import warnings
from dataclasses import replace

import pytest
import torch

from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.recoveries import RECOVERIES
from bipcore.specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
)
from bipcore.store.runs import RunStore
from tests.helpers.damage import DAMAGE
from tests.helpers.folders import edit_json, model_folder
from tests.helpers.tiny import one_thread as one_thread

TEXT = EvaluationSpec(window=32, max_tokens=96)
RECOVERY = RecoverySpec("builtin", samples=4, seq_len=16, batch_size=4, validation=0, rank=2)


def figures(pipeline: Pipeline, spec: ScoreSpec) -> dict:
    """What every kind of stored result says of a model."""
    model = spec.model
    scores = pipeline.scores(spec)
    search = pipeline.scores(replace(spec, criterion="blockpruner"))
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.3))
    plan = pipeline.stored_plan(pipeline.keep_plan(plan))
    refitted = pipeline.plan(spec, PlanSpec(sparsity=0.3, compensation="least-squares"))
    pipeline.recover(model, plan, RECOVERY)
    errors = pipeline.reconstruction(model, {"it": plan}, TEXT)["it"]
    states = {"dense": (), "pruned": (plan,), "refitted": (refitted,), "tuned": (plan, RECOVERY)}
    found = {name: pipeline.evaluate(model, TEXT, *made) for name, made in states.items()}
    return {
        "scores": [block.ffn.tolist() for block in scores.blocks],
        "search": [block.ffn.tolist() for block in search.blocks],
        "errors": list(errors.local),
        **{name: value["perplexity"] for name, value in found.items()},
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A spec, a store with every kind of result of it, and what they say."""
    root = tmp_path_factory.mktemp("made")
    model = ModelSpec(str(model_folder(root / "model")), device="cpu")
    spec = ScoreSpec(model, CalibrationSpec(samples=4, seq_len=16))
    store = RunStore(root / "store")
    with torch.random.fork_rng():
        return spec, store, figures(Pipeline(store), spec)


FILES = (
    ("scores", "spec.json"),
    ("scores", "data.json"),
    ("scores", "data.safetensors"),
    ("statistics", "data.safetensors"),
    ("second-moments", "spec.json"),
    ("second-moments", "block-0000.safetensors"),
    ("steps", "data.json"),
    ("plans", "data.json"),
    ("evaluations", "spec.json"),
    ("evaluations", "data.json"),
    ("reconstruction", "data.json"),
    ("recoveries", "spec.json"),
    ("recoveries", "data.json"),
    ("recoveries", "data.safetensors"),
)
DEPENDENTS = {
    "statistics": ("scores",),
    "second-moments": ("evaluations",),
    "steps": ("scores",),
}
"""What hides it that something is damaged, being computed from it."""


def test_every_kind_of_result_is_made_and_read_back_the_same(made):
    spec, store, right = made
    assert {kind for kind, _ in FILES} == {entry.kind for entry in store.entries()}
    assert figures(Pipeline(store), spec) == right


@pytest.mark.parametrize(("kind", "file"), FILES)
def test_a_damaged_result_of_any_kind_gives_the_right_figures(tmp_path, made, kind, file):
    spec, whole, right = made
    store = RunStore(shutil.copytree(whole.root, tmp_path / "store"))
    for hidden in DEPENDENTS.get(kind, ()):
        shutil.rmtree(store.root / hidden)
    for entry in (store.root / kind).iterdir():
        DAMAGE["a bit flipped"](entry / file)

    with pytest.warns(UserWarning, match=rf"{kind}/\w+ is damaged"):
        assert figures(Pipeline(store), spec) == right


def test_a_recovery_of_another_version_is_made_again(tmp_path, made):
    spec, whole, right = made
    store = RunStore(shutil.copytree(whole.root, tmp_path / "store"))
    (entry,) = store.entries(RECOVERIES)
    shutil.rmtree(entry.path)
    store.get(RECOVERIES, entry.spec, lambda: ({}, {"of": "another version"}))

    with pytest.warns(UserWarning, match=r"recoveries/\w+ is damaged \(it cannot be read"):
        assert figures(Pipeline(store), spec) == right


def test_a_recovery_that_cannot_be_read_closes_no_list(tmp_path, made):
    spec, whole, _ = made
    store = RunStore(shutil.copytree(whole.root, tmp_path / "store"))
    pipeline = Pipeline(store)
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.3))
    done = pipeline.recover(spec.model, plan, replace(RECOVERY, seed=1))
    strange = pipeline.variant_identity(spec.model, plan, replace(RECOVERY, seed=2))
    store.get(RECOVERIES, strange, lambda: ({}, {"of": "another version"}))
    kept = (store.path(RECOVERIES, strange).name, done.name)
    other = next(entry for entry in store.entries(RECOVERIES) if entry.digest not in kept)
    edit_json(other.path / "spec.json", spec=[])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert [one.name for one in pipeline.recoveries(spec.model)] == [done.name]

    said = [str(one.message) for one in caught]
    assert any("left out" in one for one in said)
    assert any("or of another version; make it again" in one for one in said)
