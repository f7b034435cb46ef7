"""What is kept in memory, and when it goes."""

import gc
import weakref

import pytest
import torch
from torch import nn

from bipcore.pipeline.kept import DENSE, PRUNED, Kept
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec
from tests.helpers.folders import model_folder

KIB = 1024
BUDGET = {"device": "cpu", "memory": "8KiB"}
"""Of which half may be kept."""


def _module() -> nn.Module:
    """A module of one KiB."""
    return nn.Linear(16, 16, bias=False)


@pytest.fixture
def kept() -> Kept:
    made = Kept()
    for name in "abc":
        made.put(DENSE, name, ModelSpec(name), _module())
    return made


def _names(kept: Kept) -> list[str]:
    return [entry.model.name for entry in kept]


def test_what_was_used_longest_ago_goes_first_and_is_freed(kept):
    seen = {entry.model.name: weakref.ref(entry.value) for entry in kept}
    kept.find(DENSE, "a")
    kept.make_room(KIB, **BUDGET)
    assert _names(kept) == ["b", "c", "a"]
    kept.make_room(3 * KIB, **BUDGET)
    assert _names(kept) == ["a"]
    assert [name for name, one in seen.items() if one() is None] == ["b", "c"]


def test_what_is_in_use_stays_and_the_next_goes_in_its_place(kept):
    used = kept.find(DENSE, "a").value
    kept.find(DENSE, "b"), kept.find(DENSE, "c")
    kept.make_room(3 * KIB, **BUDGET)
    assert _names(kept) == ["a"]
    assert kept.find(DENSE, "a").value is used


def test_more_than_fits_lets_all_go(kept):
    kept.make_room(100 * KIB, **BUDGET)
    assert _names(kept) == []


def test_a_module_that_refers_to_itself_is_freed(kept):
    module = _module()
    module.forward, seen = module.forward, weakref.ref(module)
    kept.put(DENSE, "cycle", ModelSpec("cycle"), module)
    del module
    gc.disable()
    try:
        kept.make_room(100 * KIB, **BUDGET)
    finally:
        gc.enable()
    assert seen() is None


def test_what_two_share_is_counted_once():
    kept, first, second = Kept(), _module(), _module()
    second.weight = first.weight
    kept.put(DENSE, 1, ModelSpec(), first)
    kept.put(PRUNED, 1, ModelSpec(), second)
    assert kept.bytes("cpu") == KIB


@pytest.fixture
def models(tmp_path) -> list[ModelSpec]:
    return [ModelSpec(str(model_folder(tmp_path / name)), device="cpu") for name in ("a", "b")]


def test_two_models_that_fit_are_both_kept(store, models):
    pipeline = Pipeline(store)
    first = pipeline.model(models[0])[0]
    pipeline.model(models[1])
    assert pipeline.model(models[0])[0] is first


def test_of_two_models_that_do_not_fit_the_first_is_freed_and_loaded_again(
    store, models, monkeypatch
):
    pipeline = Pipeline(store)
    first = pipeline.model(models[0])[0]
    before, seen = (
        {name: one.clone() for name, one in first.state_dict().items()},
        weakref.ref(first),
    )
    monkeypatch.setattr("bipcore.pipeline.kept.free_on", lambda device: 0)
    del first
    pipeline.model(models[1])
    assert seen() is None
    again = pipeline.model(models[0])[0].state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in before.items())


def test_of_pruned_models_the_last_is_kept(store, models):
    pipeline, spec = Pipeline(store), ScoreSpec(models[0], CalibrationSpec(samples=2, seq_len=16))
    plans = [pipeline.plan(spec, PlanSpec(sparsity=share)) for share in (0.2, 0.4)]
    seen = weakref.ref(pipeline.pruned(models[0], plans[0]))
    last = pipeline.pruned(models[0], plans[1])
    gc.collect()
    assert seen() is None
    assert pipeline.pruned(models[0], plans[1]) is last
    assert [entry.kind for entry in pipeline.bench.kept] == [DENSE, PRUNED]
