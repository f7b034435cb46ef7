"""Applying a plan leaves the dense model as it was, and shares what did not change."""

import hashlib

import pytest
import torch
from torch import nn

from bipcore.pruning.slicing import apply_plan, masked_model
from tests.helpers.pruning import logits_of, mixed_plan, plan_for
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

TIED = ("qwen3", "gemma2", "gemma3", "opt")
CASTS = [nn.Module.half, nn.Module.bfloat16, nn.Module.double]


def _state(model: nn.Module) -> tuple:
    """A hash of every tensor; every plain attribute of every module; the configuration."""
    digest = hashlib.sha256()
    for key, value in [*model.state_dict().items(), *model.named_buffers()]:
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    plain = (int, float, str, bool, type(None))
    attributes = {
        (path, key): value
        for path, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, plain)
    }
    return digest.hexdigest(), attributes, model.config.to_dict()


def _pointers(model: nn.Module) -> dict[str, int]:
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.data_ptr() for name, tensor in tensors}


@pytest.mark.parametrize("name", FAMILIES)
def test_applying_does_not_touch_the_dense_model(name):
    model = tiny_model(name)
    before, config, parameters = _state(model), model.config, list(model.parameters())
    apply_plan(model, plan_for(name))
    apply_plan(model, mixed_plan(name))
    masked_model(model, plan_for(name))
    assert _state(model) == before
    assert model.config is config
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("name", FAMILIES)
def test_casting_the_pruned_model_does_not_touch_the_dense_one(name, cast):
    model = tiny_model(name)
    before = _state(model)
    pruned = cast(apply_plan(model, mixed_plan(name)))
    assert {p.dtype for p in pruned.parameters()}.isdisjoint({torch.float32})
    assert _state(model) == before


@pytest.mark.parametrize("name", FAMILIES)
def test_changing_the_pruned_configuration_does_not_touch_the_dense_one(name):
    model = tiny_model(name)
    before = _state(model)
    pruned = apply_plan(model, plan_for(name))
    pruned.set_attn_implementation("eager")
    pruned.config.vocab_size = 5
    pruned.generation_config.max_length = 3
    assert _state(model) == before
    assert model.generation_config.max_length != 3


def test_freezing_and_training_flags_of_the_pruned_model_are_its_own():
    model = tiny_model("llama")
    apply_plan(model, plan_for("llama", 0)).requires_grad_(False).train()
    assert all(p.requires_grad for p in model.parameters())
    assert not model.training


def test_gradients_of_the_pruned_model_are_its_own():
    model = tiny_model("llama")
    pruned = apply_plan(model, plan_for("llama", 0.3))
    pruned(tiny_tokens(1, 8)).logits.sum().backward()
    assert all(p.grad is not None for p in pruned.parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("frozen", [True, False])
def test_frozen_parameters_stay_frozen(frozen):
    model = tiny_model("llama").requires_grad_(not frozen)
    pruned = apply_plan(model, plan_for("llama"))
    assert {p.requires_grad for p in pruned.parameters()} == {not frozen}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_masked_model_shares_nothing_with_the_dense_one(name):
    model = tiny_model(name)
    masked = masked_model(model, plan_for(name, 0))
    assert set(_pointers(model).values()).isdisjoint(_pointers(masked).values())


@pytest.mark.parametrize("name", FAMILIES)
def test_sparsity_0_gives_the_same_logits_from_the_same_storage(name):
    model = tiny_model(name)
    pruned = apply_plan(model, plan_for(name, 0))
    assert torch.equal(logits_of(pruned), logits_of(model))
    assert _pointers(pruned) == _pointers(model)


@pytest.mark.parametrize("make", [plan_for, mixed_plan], ids=["uniform", "mixed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_exactly_the_tensors_that_nothing_was_cut_from_are_shared(name, make):
    model = tiny_model(name)
    pruned = apply_plan(model, make(name))
    dense, now = dict(model.named_parameters()), dict(pruned.named_parameters())
    assert dense.keys() == now.keys()
    for key, parameter in now.items():
        whole = parameter.shape == dense[key].shape
        assert (parameter.data_ptr() == dense[key].data_ptr()) == whole, key
        assert parameter is not dense[key]


@pytest.mark.parametrize("name", FAMILIES)
def test_at_30_per_cent_embeddings_and_norms_are_shared_and_ffns_are_not(name):
    model = tiny_model(name)
    before, now = _pointers(model), _pointers(apply_plan(model, plan_for(name, 0.3)))
    for key in before:
        if "embed" in key or "norm" in key:
            assert now[key] == before[key], key
        elif key.endswith(("down_proj.weight", "fc2.weight", "dense_4h_to_h.weight")):
            assert now[key] != before[key], key


@pytest.mark.parametrize("name", FAMILIES)
def test_a_pruned_weight_holds_no_more_memory_than_it_shows(name):
    for parameter in apply_plan(tiny_model(name), plan_for(name)).parameters():
        assert parameter.is_contiguous()
        assert parameter.untyped_storage().nbytes() == parameter.numel() * 4


@pytest.mark.parametrize("name", TIED)
def test_tied_embeddings_stay_tied(name):
    model = tiny_model(name)
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    pruned = apply_plan(model, plan_for(name))
    assert pruned.get_input_embeddings().weight is pruned.get_output_embeddings().weight
    assert pruned.get_input_embeddings().weight is not model.get_input_embeddings().weight
