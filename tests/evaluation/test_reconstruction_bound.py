"""LLM-BIP's bound on the local reconstruction error: what it is, where it holds, where not."""

from functools import cache

import pytest
import torch
from torch import nn

from bipcore.criteria import Scores, score
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.evaluation.reconstruction import (
    ReconstructionErrors,
    llm_bip_bound,
    llm_bip_parts,
    reconstruction_errors,
)
from bipcore.models.adapters import Adapter
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.pruning import mixed_plan
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

NORM_AFTER_FFN = ("gemma2", "gemma3")
PLAIN = tuple(name for name in FAMILIES if name not in NORM_AFTER_FFN)


def _calibration(**sizes) -> CalibrationSet:
    return CalibrationSet.from_tokens(tiny_tokens(**sizes))


def _errors(dense: nn.Module, pruned: nn.Module, **options) -> ReconstructionErrors:
    return reconstruction_errors(dense, {"it": pruned}, _calibration(), **options)["it"]


@cache
def _scores(name: str, criterion: str = "llm-bip") -> Scores:
    dense = tiny_model(name)
    return score(dense, collect_statistics(dense, _calibration()), criterion)


def _plan_of(name: str, heads: int | None, channels: int | None) -> PruningPlan:
    """The first ``heads`` heads and channels go out of every block; None: those stay whole."""
    shape = _scores(name).shape
    kept = BlockPlan(tuple(range(heads or 0, 8)), tuple(range(channels or 0, 96)))
    return PruningPlan(shape=shape, blocks=(kept,) * 3)


def _assert_bounded(name: str, plan: PruningPlan) -> None:
    dense = tiny_model(name)
    errors = _errors(dense, apply_plan(dense, plan))
    bounds = llm_bip_bound(_scores(name), plan)
    assert len(bounds) == 3
    for error, bound in zip(errors.local, bounds, strict=True):
        assert 0 < error <= bound * (1 + 1e-5)


@pytest.mark.parametrize("name", ["llama-gqa", "phi3", "opt", "neox"])
def test_the_bound_is_the_sum_of_what_goes_by_hidden_unit(name):
    plan = mixed_plan(name)
    bounds, width = llm_bip_bound(_scores(name), plan), plan.shape.head_dim
    for block, keep, bound in zip(_scores(name).blocks, plan.blocks, bounds, strict=True):
        total = 0.0
        for j, value in enumerate(block.attention.tolist()):
            total += 0 if j // width in keep.heads else value
        for j, value in enumerate(block.ffn.tolist()):
            total += 0 if j in keep.channels else value
        assert bound == pytest.approx(total / 64, rel=1e-5)
    assert bounds[0] == 0  # the block stays whole


def test_the_bound_has_a_part_of_the_heads_and_one_of_the_channels():
    scores = _scores("llama-gqa")
    both, heads, channels = (
        llm_bip_parts(scores, _plan_of("llama-gqa", *sizes)) for sizes in ((4, 9), (4, 0), (0, 9))
    )
    assert both == tuple((of[0], on[1]) for of, on in zip(heads, channels, strict=True))
    assert all(ffn == 0 for _, ffn in heads)
    bounds = llm_bip_bound(scores, _plan_of("llama-gqa", 4, 9))
    assert bounds == tuple(map(sum, both))


@pytest.mark.parametrize("name", PLAIN)
def test_the_bound_of_a_single_channel_is_its_error(name):
    dense, plan = tiny_model(name), _plan_of(name, None, 1)
    errors = _errors(dense, apply_plan(dense, plan))
    assert errors.local == pytest.approx(llm_bip_bound(_scores(name), plan), rel=1e-5)


@pytest.mark.parametrize("removed", [1, 30, 96])
@pytest.mark.parametrize("name", PLAIN)
def test_the_bound_holds_for_channels(name, removed):
    _assert_bounded(name, _plan_of(name, None, removed))


@pytest.mark.parametrize("name", PLAIN)
def test_the_bound_holds_for_the_channels_that_scores_choose(name):
    _assert_bounded(name, make_plan(_scores(name), sparsity=0.3, unit="none"))


@pytest.mark.parametrize(("heads", "channels"), [(1, None), (7, None), (4, 48)])
def test_the_bound_holds_for_heads_beside_a_parallel_ffn(heads, channels):
    _assert_bounded("neox", _plan_of("neox", heads, channels))


@torch.no_grad()
@pytest.mark.parametrize("name", NORM_AFTER_FFN)
def test_a_norm_after_the_ffn_breaks_the_bound(name):
    """It makes the output as large as before, however small the weights and with them the bound."""
    dense = tiny_model(name)
    for block in Adapter(dense).blocks:
        block.down.weight.mul_(1e-3)
    plan = _plan_of(name, None, 48)
    scores = score(dense, collect_statistics(dense, _calibration()), "llm-bip")
    errors = _errors(dense, apply_plan(dense, plan))
    bounds = llm_bip_bound(scores, plan)
    assert all(e > b for e, b in zip(errors.local, bounds, strict=True))


@torch.no_grad()
@pytest.mark.parametrize(
    ("name", "norm"),
    [
        ("llama", "post_attention_layernorm"),
        ("opt", "final_layer_norm"),
        ("neox-sequential", "post_attention_layernorm"),
    ],
)
def test_a_norm_between_attention_and_ffn_breaks_the_bound(name, norm):
    """It can hand a small change on to the FFN as a large one."""
    dense = tiny_model(name)
    for block in Adapter(dense).blocks:
        block.module.get_submodule(norm).weight.mul_(1000)
    scores = score(dense, collect_statistics(dense, _calibration()), "llm-bip")
    plan = _plan_of(name, 7, None)
    error = _errors(dense, apply_plan(dense, plan)).local[0]
    assert error > llm_bip_bound(scores, plan)[0]


def test_scores_of_another_criterion_give_no_bound():
    with pytest.raises(InputError, match="wanda-sp"):
        llm_bip_bound(_scores("llama", "wanda-sp"), mixed_plan("llama"))


def test_scores_of_another_model_give_no_bound():
    with pytest.raises(InputError, match="another shape"):
        llm_bip_bound(_scores("llama"), mixed_plan("llama-gqa"))
