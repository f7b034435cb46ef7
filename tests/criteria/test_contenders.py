"""Minitron, MoDeGPT, zeroth-order Taylor and LoRAPrune against slow versions of themselves."""

import copy

import pytest
import torch
from torch.nn import functional

from bipcore.criteria import score
from bipcore.criteria.loraprune import SCALE, _with_adapters
from bipcore.criteria.modegpt_ffn import leverage
from bipcore.criteria.spsa import _noise, estimate_gradients
from bipcore.data.samples import CalibrationSet
from bipcore.errors import Cancelled, InputError
from bipcore.models.adapters import Adapter
from bipcore.progress import silent
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

CALIBRATION = CalibrationSet.from_tokens(tiny_tokens())


def gradients(model, tokens) -> list:
    """The gradient of the mean loss of a token of tokens (1, T), by linear of every block."""
    model = copy.deepcopy(model).requires_grad_(True)
    logits = model(input_ids=tokens).logits[0, :-1].float()
    functional.cross_entropy(logits, tokens[0, 1:]).backward()
    linears = [linear for block in Adapter(model).blocks for linear in block.linears]
    return [linear.weight.grad for linear in linears]


def inputs_of(model) -> dict[tuple[int, str], torch.Tensor]:
    """What enters o and down of every block for the calibration tokens."""
    seen: dict[tuple[int, str], torch.Tensor] = {}
    handles = [
        module.register_forward_pre_hook(lambda m, args, key=(i, site): seen.update({key: args[0]}))
        for i, block in enumerate(Adapter(model).blocks)
        for site, module in (("o", block.o), ("down", block.down))
    ]
    with torch.no_grad():
        model(input_ids=CALIBRATION.tokens)
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("name", FAMILIES)
def test_minitron_is_the_norm_over_samples_of_mean_activations(name):
    model = tiny_model(name)
    seen = inputs_of(model)
    scores = score(model, None, "minitron", calibration=CALIBRATION)
    for index, block in enumerate(scores.blocks):
        means = {
            site: seen[index, site].double().abs().view(*CALIBRATION.tokens.shape, -1).mean(1)
            for site in ("o", "down")
        }
        expected = means["down"].norm(dim=0) ** 2
        torch.testing.assert_close(block.ffn.double(), expected, rtol=1e-4, atol=0)
        heads = (means["o"] ** 2).sum(0).view(len(block.heads), -1).sum(1)
        torch.testing.assert_close(block.heads.double(), heads, rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", FAMILIES)
def test_modegpt_is_the_leverage_of_the_activations(name):
    model = tiny_model(name)
    seen = inputs_of(model)
    scores = score(model, None, "modegpt-ffn", calibration=CALIBRATION, ridge=0.1)
    for index, block in enumerate(scores.blocks):
        for site, found in (("o", block.attention), ("down", block.ffn)):
            x = seen[index, site].double().flatten(0, -2)
            moments = x.T @ x / len(x)
            level = 0.1 * moments.diagonal().mean()
            expected = (moments @ (moments + level * torch.eye(len(moments))).inverse()).diagonal()
            torch.testing.assert_close(found.double(), expected, rtol=1e-3, atol=1e-5)


def test_leverage_of_copies_is_shared_and_of_silence_is_none():
    one = torch.randn(50, 1, generator=torch.Generator().manual_seed(0)).double()
    x = torch.cat([one, one, torch.zeros(50, 1)], 1)
    found = leverage(x.T @ x, 1e-6)
    assert found.tolist() == pytest.approx([0.5, 0.5, 0.0], abs=1e-5)
    assert leverage(torch.zeros(4, 4), 0.1).tolist() == [0.0] * 4
    assert leverage(torch.zeros(0, 0), 0.1).tolist() == []


@pytest.mark.parametrize("ridge", [0.0, -1.0, 1e9])
def test_a_ridge_that_cannot_be_is_refused(ridge):
    with pytest.raises(InputError, match="The ridge is a number from"):
        score(tiny_model("llama"), None, "modegpt-ffn", calibration=CALIBRATION, ridge=ridge)


def test_a_perturbation_gives_the_slope_along_its_noise():
    model, sample = tiny_model("llama"), CalibrationSet.from_tokens(CALIBRATION.tokens[:1])
    adapter = Adapter(model)
    weights = [linear.weight for block in adapter.blocks for linear in block.linears]
    found = estimate_gradients(adapter, sample, silent, epsilon=1e-3, seed=5)
    noise = list(_noise(weights, 5))
    exact = gradients(model, sample.tokens)
    slope = sum((g * z).sum() for g, z in zip(exact, noise, strict=True))
    for got, z in zip(found, noise, strict=True):
        torch.testing.assert_close(got, slope * z, rtol=0.05, atol=1e-3)


def test_over_many_directions_the_gradient_comes_out():
    model, tokens = tiny_model("llama"), CALIBRATION.tokens[:1]
    many = CalibrationSet.from_tokens(tokens.repeat(300, 1))
    found = estimate_gradients(Adapter(model), many, silent, epsilon=1e-3, seed=0)
    exact = torch.cat([g.flatten() for g in gradients(model, tokens)])
    got = torch.cat([g.flatten() for g in found])
    by_chance = 1 / len(exact) ** 0.5
    assert functional.cosine_similarity(got, exact, dim=0) > 10 * by_chance


def test_weights_come_back_to_the_last_bit_whatever_happens():
    model = tiny_model("qwen3")
    before = copy.deepcopy(model.state_dict())
    calls = []

    def cancel(fraction: float, message: str) -> None:
        calls.append(fraction)
        if len(calls) == 3:
            raise Cancelled

    for criterion in ("spsa", "loraprune"):
        score(model, None, criterion, calibration=CALIBRATION)
        calls.clear()
        with pytest.raises(Cancelled):
            score(model, None, criterion, calibration=CALIBRATION, progress=cancel)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        assert not any("forward" in vars(module) for module in model.modules())


def test_the_first_step_of_loraprune_is_the_gradient_through_its_adapters():
    model, tokens = tiny_model("llama"), CALIBRATION.tokens[:1]
    adapter = Adapter(model)
    found = score(model, None, "loraprune", calibration=CalibrationSet.from_tokens(tokens), seed=3)
    exact, adapters = iter(gradients(model, tokens)), _with_adapters(adapter, 8, 3)
    for block, of_block, got in zip(adapter.blocks, adapters, found.blocks, strict=True):
        values = [
            (SCALE * next(exact) @ one.a.T @ one.a * one.linear.weight).detach().abs()
            for one in of_block
        ]
        split = block.split(values)
        unit = [functional.normalize(v, dim=0) for v in (split.up.sum(1), split.gate.sum(1))]
        expected = sum(unit) + functional.normalize(split.down.sum(0), dim=0)
        torch.testing.assert_close(got.ffn, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("criterion", "options", "message"),
    [
        ("spsa", {"epsilon": 0.0}, "above 0 and below 1"),
        ("spsa", {"seed": -1}, "seed"),
        ("loraprune", {"rank": 0}, "at least 1"),
        ("loraprune", {"seed": -1}, "seed"),
    ],
)
def test_bad_options_are_refused(criterion, options, message):
    with pytest.raises(InputError, match=message):
        score(tiny_model("llama"), None, criterion, calibration=CALIBRATION, **options)
