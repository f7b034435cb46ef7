"""What is computed of a model in half precision is what it is in float32, also where squares and
gradients are beyond float16."""

import copy
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from bipcore.criteria import CRITERIA, score
from bipcore.criteria.fisher import collect_fisher
from bipcore.criteria.moments import collect_second_moments
from bipcore.criteria.statistics import Statistics, collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.models.adapters import Adapter
from bipcore.progress import silent
from tests.helpers.tiny import one_thread, tiny_model, tiny_tokens  # noqa: F401

SET = CalibrationSet.from_tokens(tiny_tokens(4, 32))
RUNS = [(name, {}) for name, one in CRITERIA.items() if one.needs != "nothing"]
RUNS.append(("llm-pruner", {"order": 2}))
HALF = [torch.bfloat16, torch.float16]
LOUD = 1000.0
"""How much louder the inputs of the output projections are than what these are made for."""


@cache
def models(dtype: torch.dtype) -> tuple[nn.Module, nn.Module]:
    """A loud model in ``dtype``, and the same in float32."""
    model = tiny_model("llama-gqa")
    with torch.no_grad():
        for layer in model.model.layers:
            attention, ffn = layer.self_attn, layer.mlp
            for into in (attention.v_proj, ffn.up_proj):
                into.weight *= LOUD
                into.bias *= LOUD
            for out in (attention.o_proj, ffn.down_proj):
                out.weight /= LOUD
    half = model.to(dtype)
    return half, copy.deepcopy(half).float()


@cache
def statistics(dtype: torch.dtype) -> tuple[Statistics, Statistics]:
    """Of both models."""
    return tuple(collect_statistics(model, SET) for model in models(dtype))


ROUNDINGS = {"spsa": 16, "loraprune": 32}
"""Of criteria that enlarge them: by differences of losses, and by steps of a trained adapter."""
REORDERED = 0.15
"""By what share scores may differ where each removal depends on those before it, so that one that
changes its place changes others."""


def assert_near(found: Tensor, exact: Tensor, share: float) -> None:
    """‖found − exact‖ is at most this ``share`` of ‖exact‖."""
    assert (found - exact).norm() <= share * exact.norm()


def few_roundings(dtype: torch.dtype, name: str = "") -> float:
    """What may differ in ``dtype``, of a criterion where it is named."""
    if name and CRITERIA[name].curves is not None:
        return REORDERED
    return ROUNDINGS.get(name, 4) * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", HALF)
def test_moments_of_loud_activations_do_not_overflow(dtype):
    half, exact = (found.to_tensors() for found in statistics(dtype))
    for name in exact.keys() - {"tokens"}:
        assert_near(half[name], exact[name], few_roundings(dtype))
    loudest = max(float(value.max()) for name, value in exact.items() if "mean_square" in name)
    assert loudest > torch.finfo(torch.float16).max


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize(("name", "options"), RUNS)
def test_scores_in_half_precision_are_those_in_float32(name, options, dtype):
    half, exact = (
        score(model, found, name, calibration=SET, **options).blocks
        for model, found in zip(models(dtype), statistics(dtype), strict=True)
    )
    for one, other in zip(half, exact, strict=True):
        for kind in ("attention", "heads", "kv_groups", "ffn"):
            assert_near(getattr(one, kind), getattr(other, kind), few_roundings(dtype, name))


@pytest.mark.parametrize("dtype", HALF)
def test_second_moments_of_loud_activations_do_not_overflow(dtype):
    half, exact = (collect_second_moments(model, SET) for model in models(dtype))
    matrices = [name for name in exact if name.endswith((".o", ".down"))]
    for name in matrices:
        assert_near(half[name], exact[name], few_roundings(dtype))
    assert max(float(exact[name].max()) for name in matrices) > torch.finfo(torch.float16).max


def test_fisher_matrices_do_not_overflow_where_gradients_are_loud():
    half = tiny_model("llama-gqa").to(torch.float16)
    with torch.no_grad():  # hidden states so small that norms enlarge what comes back
        half.lm_head.weight *= 5
        half.model.embed_tokens.weight /= LOUD
        for layer in half.model.layers:
            for out in (layer.self_attn.o_proj, layer.mlp.down_proj):
                out.weight /= LOUD
                out.bias /= LOUD
    found, exact = (
        collect_fisher(Adapter(model), SET, silent) for model in (half, copy.deepcopy(half).float())
    )
    for one, other in zip(found, exact, strict=True):
        for site in ("o", "down"):
            assert torch.isfinite(one[site]).all()
            ratio = one[site].diagonal().mean() / other[site].diagonal().mean()
            assert 0.8 < float(ratio) < 1.25  # other tokens are drawn where chances are near
