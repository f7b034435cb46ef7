"""What a comparison of models refuses, and that it leaves no trace, also where it ends early."""

import pytest
import torch
from torch import nn
from transformers import LlamaForCausalLM

from bipcore.data.samples import CalibrationSet
from bipcore.errors import Cancelled, InputError
from bipcore.evaluation.reconstruction import ReconstructionErrors, reconstruction_errors
from bipcore.pruning.slicing import apply_plan
from tests.helpers.pruning import plan_for
from tests.helpers.tiny import CONFIGS, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread


def _calibration(**sizes) -> CalibrationSet:
    return CalibrationSet.from_tokens(tiny_tokens(**sizes))


def _errors(dense: nn.Module, pruned: nn.Module, **options) -> ReconstructionErrors:
    return reconstruction_errors(dense, {"it": pruned}, _calibration(), **options)["it"]


def _fail_at(fraction: float):
    def progress(done: float, message: str) -> None:
        if done >= fraction:
            raise Cancelled

    return progress


def _state(model: nn.Module) -> list:
    """What a computation must not leave changed in any module."""
    return [
        (m.training, m.__dict__.get("forward"), len(m._forward_hooks), len(m._forward_pre_hooks))
        for m in model.modules()
    ]


def test_models_run_in_evaluation_mode_and_their_modes_come_back():
    dense = tiny_model("opt")
    pruned = apply_plan(dense, plan_for("opt"))
    quiet = _errors(dense, pruned)
    dense.train()
    pruned.train()
    pruned.model.decoder.layers[1].eval()
    before = _state(dense), _state(pruned)
    assert _errors(dense, pruned) == quiet
    assert (_state(dense), _state(pruned)) == before


@pytest.mark.parametrize("fraction", [0, 0.4, 0.9, 1])
def test_nothing_stays_changed_after_a_cancellation(fraction):
    dense = tiny_model("phi3").train()
    pruned = apply_plan(dense, plan_for("phi3")).train()
    before = _state(dense), _state(pruned)
    with pytest.raises(Cancelled):
        _errors(dense, pruned, batch_size=2, progress=_fail_at(fraction))
    assert (_state(dense), _state(pruned)) == before


def test_nothing_stays_changed_after_a_model_raised():
    dense = tiny_model("phi3").train()
    pruned = apply_plan(dense, plan_for("phi3")).train()
    pruned.model.layers[1].mlp.register_forward_pre_hook(lambda module, args: 1 / 0)
    before = _state(dense), _state(pruned)
    with pytest.raises(ZeroDivisionError):
        _errors(dense, pruned)
    assert (_state(dense), _state(pruned)) == before


def test_weights_stay_as_they_are_and_there_is_no_gradient():
    dense = tiny_model("llama")
    pruned = apply_plan(dense, plan_for("llama"))
    before = [p.clone() for model in (dense, pruned) for p in model.parameters()]
    _errors(dense, pruned)
    after = [p for model in (dense, pruned) for p in model.parameters()]
    assert all(map(torch.equal, before, after))
    assert all(p.grad is None for p in after)


def test_an_empty_calibration_set_is_refused():
    dense = tiny_model("llama")
    empty = CalibrationSet(tokens=torch.zeros(0, 24, dtype=torch.long))
    with pytest.raises(InputError, match="empty"):
        reconstruction_errors(dense, {"it": dense}, empty)


def test_samples_longer_than_the_model_reads_are_refused():
    dense = tiny_model("llama")
    with pytest.raises(InputError, match="128 positions"):
        reconstruction_errors(dense, {"it": dense}, _calibration(seq_len=129))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_without_samples_is_refused(batch_size):
    dense = tiny_model("llama")
    with pytest.raises(InputError, match="batch size"):
        _errors(dense, dense, batch_size=batch_size)


def _other(**sizes) -> nn.Module:
    config = CONFIGS["llama"]()
    for name, value in sizes.items():
        setattr(config, name, value)
    return LlamaForCausalLM(config)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"num_hidden_layers": 2}, "number of blocks .* 'b' is 2, .* dense one 3"),
        ({"hidden_size": 32, "head_dim": 8}, "hidden size .* 'b' is 32, .* dense one 64"),
    ],
)
def test_a_model_of_another_size_is_refused(sizes, words):
    dense = tiny_model("llama")
    with pytest.raises(InputError, match=words):
        reconstruction_errors(dense, {"a": dense, "b": _other(**sizes)}, _calibration())


def test_a_model_of_another_data_type_is_refused():
    dense = tiny_model("llama")
    half = apply_plan(dense, plan_for("llama")).bfloat16()
    with pytest.raises(InputError, match=r"data type .* bfloat16, .* float32"):
        _errors(dense, half)


def test_a_model_with_other_attention_code_is_refused():
    """Its masks are others: eager attention without a mask looks ahead."""
    dense = tiny_model("llama")
    pruned = apply_plan(dense, plan_for("llama"))
    pruned.set_attn_implementation("eager")
    with pytest.raises(InputError, match=r"attention implementation .* eager, .* sdpa"):
        _errors(dense, pruned)
