"""Reconstruction errors against those of stored hidden states."""

import math
import weakref

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from bipcore.data.samples import CalibrationSet
from bipcore.evaluation.reconstruction import ReconstructionErrors, reconstruction_errors
from bipcore.models.adapters import Adapter
from bipcore.models.running import Entrance
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan
from bipcore.views.reconstruction import reconstruction_frame
from tests.helpers.pruning import mixed_plan, plan_for
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread


def _calibration(**sizes) -> CalibrationSet:
    return CalibrationSet.from_tokens(tiny_tokens(**sizes))


def _errors(dense: nn.Module, pruned: nn.Module, **options) -> ReconstructionErrors:
    return reconstruction_errors(dense, {"it": pruned}, _calibration(), **options)["it"]


@torch.no_grad()
def _calls(model: nn.Module, tokens: Tensor) -> list[tuple[Tensor, dict, Tensor]]:
    """Input, named arguments and output of every block in one forward pass over all tokens."""
    calls: list[tuple[Tensor, dict, Tensor]] = []

    def keep(module, args, named, output) -> None:
        calls.append((args[0], named, output))

    handles = [
        block.module.register_forward_hook(keep, with_kwargs=True)
        for block in Adapter(model).blocks
    ]
    model(tokens, use_cache=False)
    for handle in handles:
        handle.remove()
    return calls


@torch.no_grad()
def _naive(dense: nn.Module, pruned: nn.Module, tokens: Tensor) -> ReconstructionErrors:
    """All hidden states kept; every pruned block called on what enters its dense block."""
    ours, theirs = _calls(dense, tokens), _calls(pruned, tokens)
    modules = [block.module for block in Adapter(pruned).blocks]
    local = [module(x, **named) for module, (x, named, _) in zip(modules, ours, strict=True)]
    return ReconstructionErrors(
        accumulated=tuple(_mean_abs(a[2] - b[2]) for a, b in zip(ours, theirs, strict=True)),
        local=tuple(_mean_abs(a[2] - b) for a, b in zip(ours, local, strict=True)),
        dense_mean_abs=tuple(_mean_abs(a[2]) for a in ours),
    )


def _mean_abs(values: Tensor) -> float:
    return values.double().abs().mean().item()


def _assert_close(actual: ReconstructionErrors, expected: ReconstructionErrors, **to) -> None:
    for name in ("accumulated", "local", "dense_mean_abs"):
        assert getattr(actual, name) == pytest.approx(getattr(expected, name), **to)


@pytest.mark.parametrize("name", FAMILIES)
def test_errors_equal_those_of_stored_hidden_states(name):
    dense = tiny_model(name)
    pruned = {
        "half": apply_plan(dense, plan_for(name)),
        "mixed": apply_plan(dense, mixed_plan(name)),
    }
    errors = reconstruction_errors(dense, pruned, _calibration())
    assert list(errors) == list(pruned)
    for key, model in pruned.items():
        _assert_close(errors[key], _naive(dense, model, tiny_tokens()), rel=1e-5)
        assert all(0 < e < math.inf for e in errors[key].accumulated[1:])


@pytest.mark.parametrize("name", ["llama-gqa", "gemma2", "neox"])
def test_errors_with_eager_attention_equal_those_of_stored_hidden_states(name):
    dense = tiny_model(name)
    dense.set_attn_implementation("eager")
    pruned = apply_plan(dense, plan_for(name))
    _assert_close(_errors(dense, pruned), _naive(dense, pruned, tiny_tokens()), rel=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_in_the_first_block_both_errors_are_the_same(name):
    dense = tiny_model(name)
    errors = _errors(dense, apply_plan(dense, plan_for(name)))
    assert errors.accumulated[0] == errors.local[0] > 0
    assert all(a != b for a, b in zip(errors.accumulated[1:], errors.local[1:], strict=True))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_with_nothing_removed_has_no_error(name):
    dense = tiny_model(name)
    errors = _errors(dense, apply_plan(dense, plan_for(name, 0)))
    assert errors.accumulated == errors.local == (0, 0, 0)
    assert min(errors.dense_mean_abs) > 0


def test_a_block_that_is_whole_has_an_accumulated_error_only():
    dense = tiny_model("mistral")
    plan = plan_for("mistral", 0.4, protect_last=1)
    errors = _errors(dense, apply_plan(dense, plan))
    assert errors.local[2] == 0
    assert errors.accumulated[2] > 0


@pytest.mark.parametrize("name", ["llama-gqa", "qwen3", "phi3"])
def test_models_without_whole_sublayers_are_measured(name):
    dense = tiny_model(name)
    shape = Adapter(dense).shape
    heads, channels = tuple(range(8)), tuple(range(96))
    kept = (BlockPlan(heads, ()), BlockPlan((), channels), BlockPlan((), ()))
    pruned = apply_plan(dense, PruningPlan(shape=shape, blocks=kept))
    _assert_close(_errors(dense, pruned), _naive(dense, pruned, tiny_tokens()), rel=1e-5)


@torch.no_grad()
def test_biases_that_make_up_for_what_went_are_measured():
    dense = tiny_model("llama")
    pruned = apply_plan(dense, plan_for("llama"))
    plain = _errors(dense, pruned)
    for block in Adapter(pruned).blocks:
        block.down.bias = nn.Parameter(torch.full((64,), 0.1))
    errors = _errors(dense, pruned)
    assert errors.local != plain.local
    _assert_close(errors, _naive(dense, pruned, tiny_tokens()), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6, 100])
def test_errors_do_not_depend_on_the_batch_size(batch_size):
    dense = tiny_model("gemma3")
    pruned = apply_plan(dense, plan_for("gemma3"))
    errors = _errors(dense, pruned, batch_size=batch_size)
    _assert_close(errors, _errors(dense, pruned, batch_size=3), rel=1e-5)


def test_the_errors_of_a_model_do_not_depend_on_the_others():
    dense = tiny_model("qwen2")
    models = {str(s): apply_plan(dense, plan_for("qwen2", s)) for s in (0.2, 0.4, 0.6)}
    together = reconstruction_errors(dense, models, _calibration())
    assert all(_errors(dense, model) == together[key] for key, model in models.items())
    assert together["0.2"].local < together["0.4"].local < together["0.6"].local


def test_a_bfloat16_model_is_compared_in_float32():
    dense = tiny_model("llama").bfloat16()
    pruned = apply_plan(dense, plan_for("llama"))
    ours, theirs = (_calls(model, tiny_tokens()) for model in (dense, pruned))
    expected = [_mean_abs(a[2].float() - b[2].float()) for a, b in zip(ours, theirs, strict=True)]
    errors = _errors(dense, pruned, batch_size=6)
    assert errors.accumulated == pytest.approx(expected, rel=1e-5)


def test_relative_errors_are_shares_of_the_dense_output():
    errors = ReconstructionErrors((1.0, 3.0), (0.5, 0.0), (2.0, 4.0))
    assert errors.accumulated_relative == (0.5, 0.75)
    assert errors.local_relative == (0.25, 0.0)


def test_a_share_of_nothing_is_not_a_number():
    assert math.isnan(ReconstructionErrors((1.0,), (1.0,), (0.0,)).local_relative[0])


def test_memory_does_not_grow_with_the_number_of_samples(monkeypatch):
    dense = tiny_model("llama")
    pruned = {str(s): apply_plan(dense, plan_for("llama", s)) for s in (0.3, 0.5)}
    peaks = {}
    original = Entrance.run
    for samples in (2, 9):
        alive: weakref.WeakSet = weakref.WeakSet()
        counts = []

        def run(self, index, block, hidden, alive=alive, counts=counts):
            output = original(self, index, block, hidden)
            alive.add(output)
            counts.append(len(alive))
            return output

        monkeypatch.setattr(Entrance, "run", run)
        reconstruction_errors(dense, pruned, _calibration(samples=samples), batch_size=1)
        peaks[samples] = max(counts)
        assert len(counts) == samples * (3 + 2 * 3 + 2 * 2)
        assert len(alive) == 0
    # the dense state before and after the block, one of each model, and two on the way
    assert peaks[2] == peaks[9] <= 2 + len(pruned) + 2


def test_progress_rises_from_0_to_1_block_by_block():
    dense = tiny_model("llama")
    seen = []
    pruned = apply_plan(dense, plan_for("llama"))
    _errors(dense, pruned, batch_size=4, progress=lambda done, message: seen.append(done))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1], len(seen)) == (0, 1, 2 * 3 + 1)


ERRORS = {
    "a": ReconstructionErrors((1.0, 3.0), (0.5, 1.0), (2.0, 4.0)),
    "b": ReconstructionErrors((0.0, 2.0), (0.0, 0.0), (2.0, 4.0)),
}


def test_the_frame_has_a_row_for_every_block_of_every_model():
    expected = {
        "block": [0, 1, 0, 1],
        "model": ["a", "a", "b", "b"],
        "accumulated": [1.0, 3.0, 0.0, 2.0],
        "local": [0.5, 1.0, 0.0, 0.0],
        "accumulated_relative": [0.5, 0.75, 0.0, 0.5],
        "local_relative": [0.25, 0.25, 0.0, 0.0],
    }
    pd.testing.assert_frame_equal(reconstruction_frame(ERRORS), pd.DataFrame(expected))


def test_the_frame_has_the_bounds_of_the_models_that_have_one():
    frame = reconstruction_frame(ERRORS, {"a": (2.0, 5.0)})
    assert frame.columns[-1] == "bound"
    assert frame.bound[:2].tolist() == [2.0, 5.0]
    assert frame.bound[2:].isna().all()


def test_the_frame_of_no_models_has_its_columns():
    frame = reconstruction_frame({}, {})
    assert len(frame) == 0
    assert list(frame.columns[[0, 1, -1]]) == ["block", "model", "bound"]
