"""Distilling from the dense model: the loss and its gradient, what trains, going on exactly."""

from dataclasses import replace

import pytest
import torch

from bipcore.errors import Cancelled, InputError
from bipcore.models.adapters import Adapter
from bipcore.models.divergence import kl_divergence
from bipcore.pruning.slicing import apply_plan
from bipcore.recovery.objectives import divergence
from bipcore.recovery.training import recover
from bipcore.recovery.weights import recovered_model, weights_of
from bipcore.specs import RecoverySpec
from bipcore.store.resume import Checkpoints
from tests.helpers.pruning import mixed_plan
from tests.helpers.recoveries import SPEC as TEXT
from tests.helpers.recoveries import TOKENS, pruned
from tests.helpers.tiny import FAMILIES, one_thread, random_model, tiny_model, tiny_tokens  # noqa: F401

SPEC = replace(TEXT, objective="distill")


def apart(model, dense, tokens) -> float:
    """The mean divergence over all positions, the slow way."""
    with torch.no_grad():
        p, q = (m(tokens).logits.double().softmax(-1) for m in (dense, model))
    return float((p * (p / q).log()).sum(-1).mean())


def test_the_divergence_and_its_gradient_are_those_of_autograd():
    logits = torch.randn(2, 700, 13, requires_grad=True)
    dense = torch.randn(2, 700, 13)
    p, q = dense.double().log_softmax(-1), logits.double().log_softmax(-1)
    expected = (p.exp() * (p - q)).sum()
    (slope,) = torch.autograd.grad(3 * expected, logits)
    got = divergence(logits, dense)
    (found,) = torch.autograd.grad(3 * got, logits)
    assert float(got) == pytest.approx(float(expected), rel=1e-6)
    torch.testing.assert_close(found, slope.float(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(got, kl_divergence(logits, dense).sum(), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("train", ["lora", "blocks", "refit"])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_comes_nearer_to_the_dense_model(name, train):
    dense, model = tiny_model(name), pruned(name)
    spec = replace(SPEC, train=train, learning_rate=1e-3 if train == "lora" else 1e-4, epochs=4)
    done = recover(model, TOKENS, spec, dense=dense)
    whole = recovered_model(model, spec, done.tensors)
    before, after = (apart(m, dense, TOKENS[12:]) for m in (model, whole))
    assert done.history[0].validation_kl == pytest.approx(before, rel=1e-4)
    assert done.history[-1].validation_kl == pytest.approx(after, rel=1e-4)
    assert apart(whole, dense, TOKENS[:12]) < apart(model, dense, TOKENS[:12])
    assert type(whole) is type(model)


def test_the_dense_model_diverges_from_itself_by_nothing():
    dense = tiny_model("llama")
    done = recover(dense, TOKENS, replace(SPEC, epochs=1), dense=dense)
    assert done.history[0].validation_kl == 0
    assert done.history[1].loss == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("train", ["blocks", "refit"])
def test_what_is_meant_is_trained_and_nothing_else(train):
    dense, model = tiny_model("qwen3"), pruned("qwen3")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    spec = replace(SPEC, train=train)
    done = recover(model, TOKENS, spec, dense=dense)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    whole = recovered_model(model, spec, done.tensors)
    changed = {n for n, p in whole.named_parameters() if not torch.equal(p, before[n])}
    assert changed == set(done.tensors) == weights_of(model, train, dense)
    blocks = [block.module for block in Adapter(model).blocks]
    inside = {id(p) for block in blocks for p in block.parameters() if p.numel()}
    names = dict(model.named_parameters())
    assert {id(names[name]) for name in changed} <= inside
    shapes = {name: value.shape for name, value in dense.named_parameters()}
    cut = {name for name, p in names.items() if p.shape != shapes[name] and p.numel()}
    assert cut <= changed
    if train == "refit":
        assert all(name in cut or names[name].dim() == 1 for name in changed)
    else:
        assert len(changed) == len(inside)
    kept = {n for n, p in whole.named_parameters() if p.data_ptr() == names[n].data_ptr()}
    assert changed.isdisjoint(kept)


@pytest.mark.parametrize("train", ["lora", "blocks"])
def test_a_cancelled_run_goes_on_to_exactly_the_same_weights(store, train):
    spec, dense = replace(SPEC, train=train, patience=9), tiny_model("llama")
    whole = recover(pruned(), TOKENS, spec, dense=dense)
    kept = Checkpoints(store, "this run")

    def progress(fraction: float, message: str) -> None:
        if message.startswith("Step 3 "):
            raise Cancelled

    with pytest.raises(Cancelled):
        recover(pruned(), TOKENS, spec, dense=dense, checkpoints=kept, progress=progress)
    assert kept.steps() == [2]
    done = recover(pruned(), TOKENS, spec, dense=dense, checkpoints=kept)
    assert done.history == whole.history
    assert all(torch.equal(value, whole.tensors[name]) for name, value in done.tensors.items())


def test_half_precision_is_stepped_in_float32():
    dense = tiny_model("llama").to(torch.bfloat16)
    model = apply_plan(dense, mixed_plan("llama"))
    spec = replace(SPEC, train="blocks", learning_rate=1e-5, epochs=8)
    done = recover(model, TOKENS, spec, dense=dense)
    assert {value.dtype for value in done.tensors.values()} == {torch.bfloat16}
    moved = recovered_model(model, spec, done.tensors).state_dict()
    assert any(not torch.equal(value, moved[name]) for name, value in model.state_dict().items())


def test_the_blocks_outputs_count_where_asked():
    dense, model = tiny_model("llama"), pruned()
    plain, more = (
        recover(model, TOKENS, replace(SPEC, hidden_weight=weight), dense=dense)
        for weight in (0.0, 2.0)
    )
    with torch.no_grad():
        how = {"input_ids": TOKENS[:12], "output_hidden_states": True}
        own, theirs = (m(**how).hidden_states[1:] for m in (model, dense))
    share = [
        float((a - b).square().sum() / b.square().sum()) for a, b in zip(own, theirs, strict=True)
    ]
    assert more.history[1].loss - plain.history[1].loss == pytest.approx(
        2 * sum(share) / len(share), rel=0.2
    )


def test_what_cannot_be_is_refused_in_a_sentence():
    model, dense = pruned(), tiny_model("llama")
    with pytest.raises(InputError, match="the dense model is needed"):
        recover(model, TOKENS, SPEC)
    with pytest.raises(InputError, match="the dense model is needed"):
        recover(model, TOKENS, replace(SPEC, objective="text", train="refit"))
    config = tiny_model("llama").config
    config.vocab_size = 101
    with pytest.raises(InputError, match="101 tokens in its vocabulary and this one 97"):
        recover(model, TOKENS, SPEC, dense=random_model(config))
    with pytest.raises(InputError, match="objective"):
        replace(SPEC, objective="luck")
    with pytest.raises(InputError, match="with the objective distill alone"):
        replace(SPEC, objective="text", hidden_weight=1.0)
    done = recover(model, TOKENS, replace(SPEC, train="blocks"), dense=dense)
    with pytest.raises(InputError, match="trained for another model"):
        recovered_model(dense, replace(SPEC, train="blocks"), done.tensors)


def test_a_stored_recovery_is_found_by_what_it_was():
    text = RecoverySpec("builtin", objective="text")
    assert {"objective", "train", "hidden_weight"}.isdisjoint(text.identity())
    assert RecoverySpec("builtin").identity()["objective"] == "distill"
    assert replace(text, train="blocks").identity()["train"] == "blocks"
