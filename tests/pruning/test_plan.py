"""Which heads and channels a plan keeps, and what it realises."""

import random
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from bipcore.criteria import BlockScores
from bipcore.errors import InputError
from bipcore.models.shapes import BlockShape
from bipcore.pruning.allocation import allocated_shape
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.resolving import BY_WIDTH, Resolved
from tests.helpers.shapes import LLAMA_7B, SMALL_GQA, SMALL_MHA, SMOLLM2, model_shape, random_scores
from tests.helpers.tiny import one_thread as one_thread

SPARSITIES = [round(0.05 * step, 2) for step in range(13)] + [0.013, 1 / 3, 0.575]
PROTECTIONS = [(0, 0), (4, 2), (1, 0)]
SETTINGS = {"protect_first": 2, "protect_last": 1, "round_to": 8}
UNITS_OF = {"mha": (SMALL_MHA, "head"), "gqa": (SMALL_GQA, "query-head")}


def _plan(shape, sparsity, seed=0, **options) -> PruningPlan:
    return make_plan(random_scores(shape, seed=seed), sparsity=sparsity, **options)


def _realised_by_hand(plan: PruningPlan) -> float:
    """The removed share, from the definition of the widths alone."""
    shape, removed, total = plan.shape, 0, 0
    for kept, was in zip(plan.blocks, shape.blocks, strict=True):
        width, group = 2 * shape.head_dim * shape.hidden, was.heads // was.kv_heads
        groups = {head // group for head in kept.heads}
        removed += (was.heads - len(kept.heads)) * width
        removed += (was.kv_heads - len(groups)) * width
        removed += (was.channels - len(kept.channels)) * 3 * shape.hidden
        total += (was.heads + was.kv_heads) * width + was.channels * 3 * shape.hidden
        total += 2 * shape.hidden
    return removed / total


@pytest.mark.parametrize(("first", "last"), PROTECTIONS)
@pytest.mark.parametrize("unit", ["query-head", "kv-group"])
def test_uniform_realises_what_was_asked_within_half_a_per_cent(unit, first, last):
    scores = random_scores(SMOLLM2)
    for sparsity in SPARSITIES:
        plan = make_plan(
            scores, sparsity=sparsity, unit=unit, protect_first=first, protect_last=last
        )
        assert plan.realised == pytest.approx(sparsity, abs=0.005), sparsity


@pytest.mark.parametrize("shape", [LLAMA_7B, SMALL_MHA], ids=["llama-7b", "small"])
@pytest.mark.parametrize("sparsity", [0.05, 0.2, 0.5, 0.8])
def test_uniform_realises_what_was_asked_of_single_heads(shape, sparsity):
    plan = _plan(shape, sparsity, unit="head")
    assert plan.realised == pytest.approx(sparsity, abs=0.005)


@pytest.mark.parametrize("sparsity", [0, 0.1, 0.3, 0.6])
def test_channels_alone_realise_what_was_asked(sparsity):
    plan = _plan(SMOLLM2, sparsity, unit="none", protect_first=1)
    assert {(block.heads, block.kv_heads) for block in plan.pruned_shape.blocks} == {(9, 3)}
    assert plan.realised == pytest.approx(sparsity, abs=0.005)


@pytest.mark.parametrize("unit", ["query-head", "kv-group", "none"])
@pytest.mark.parametrize("allocation", BY_WIDTH)
def test_sizes_can_be_had_without_scores(unit, allocation):
    settings = SETTINGS | {"sparsity": 0.4, "unit": unit, "allocation": allocation}
    counted = allocated_shape(SMOLLM2, Resolved(**settings))
    assert counted == _plan(SMOLLM2, **settings).pruned_shape


@pytest.mark.parametrize("unit", ["query-head", "kv-group"])
@pytest.mark.parametrize("allocation", BY_WIDTH)
def test_realised_is_the_share_of_block_parameters_that_go(unit, allocation):
    plan = _plan(SMOLLM2, 0.4, unit=unit, allocation=allocation, protect_first=2)
    assert plan.realised == pytest.approx(_realised_by_hand(plan), abs=1e-12)
    share = SMOLLM2.block_parameters / SMOLLM2.parameters
    assert plan.realised_total == pytest.approx(plan.realised * share, abs=1e-12)


@pytest.mark.parametrize("unit", ["auto", "query-head", "kv-group", "none"])
@pytest.mark.parametrize("allocation", BY_WIDTH)
@pytest.mark.parametrize(
    "options", [{}, {"protect_first": 4, "protect_last": 2}, {"round_to": 1100}]
)
def test_sparsity_0_keeps_everything(unit, allocation, options):
    plan = _plan(SMOLLM2, 0, unit=unit, allocation=allocation, **options)
    assert plan.blocks == (BlockPlan(tuple(range(9)), tuple(range(1536))),) * 30
    assert (plan.realised, plan.realised_total) == (0, 0)
    assert plan.pruned_shape == SMOLLM2


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.5, 0.7])
@pytest.mark.parametrize("allocation", ["uniform", "paper"])
def test_all_blocks_get_the_same_widths(sparsity, allocation):
    plan = _plan(SMOLLM2, sparsity, allocation=allocation)
    assert plan.uniform
    assert len(set(plan.pruned_shape.blocks)) == 1


@pytest.mark.parametrize(
    ("sparsity", "heads"), [(0.1, 8), (0.12, 8), (0.13, 7), (0.25, 6), (0.37, 6), (0.5, 4)]
)
def test_heads_to_remove_are_rounded_down(sparsity, heads):
    assert _plan(SMALL_MHA, sparsity).pruned_shape.blocks[0].heads == heads


def test_rounding_down_does_not_stumble_over_floating_point():
    shape = model_shape(blocks=11, heads=8, kv_heads=8, width=8, hidden=64, channels=96)
    plan = _plan(shape, 3 / 8 * 10 / 11, protect_first=1)  # 3 of 8 heads of each of 10 blocks
    assert [block.heads for block in plan.pruned_shape.blocks] == [8] + [5] * 10


@pytest.mark.parametrize(("sparsity", "of_group"), [(0.3, 3), (1 / 3, 2), (0.6, 2), (2 / 3, 1)])
def test_query_heads_to_remove_are_rounded_down_in_every_group(sparsity, of_group):
    block = _plan(SMOLLM2, sparsity).pruned_shape.blocks[0]
    assert (block.heads, block.kv_heads) == (3 * of_group, 3)


def test_more_heads_go_where_the_channels_alone_cannot():
    shape = model_shape(blocks=2, heads=8, kv_heads=8, width=16, hidden=64, channels=20)
    plan = _plan(shape, 0.6)
    assert plan.pruned_shape.blocks[0].heads == 8 - 5
    assert plan.realised == pytest.approx(0.6, abs=0.005)
    plan = _plan(shape, 0.86)
    assert plan.pruned_shape.blocks[0].heads == 1
    assert plan.realised == pytest.approx(0.86, abs=0.005)


@pytest.mark.parametrize(
    ("sparsity", "heads", "channels"),
    [(0.2, 8 - 2, 96 - 19), (0.3, 8 - 2, 96 - 29), (0.44, 8 - 4, 96 - 42), (0.05, 8, 96 - 5)],
)
def test_paper_rounds_heads_and_channels_separately_to_the_nearest(sparsity, heads, channels):
    block = _plan(SMALL_MHA, sparsity, allocation="paper").pruned_shape.blocks[0]
    assert (block.heads, block.channels) == (heads, channels)


def test_paper_leaves_at_least_a_head_and_a_channel():
    block = _plan(SMALL_MHA, 0.999, allocation="paper").pruned_shape.blocks[0]
    assert (block.heads, block.channels) == (1, 1)


@pytest.mark.parametrize("allocation", BY_WIDTH)
def test_protected_blocks_stay_whole(allocation):
    plan = _plan(SMOLLM2, 0.4, allocation=allocation, protect_first=4, protect_last=2)
    whole = [block == BlockShape(9, 3, 1536) for block in plan.pruned_shape.blocks]
    assert whole == [True] * 4 + [False] * 24 + [True] * 2
    assert not plan.uniform


@pytest.mark.parametrize("sparsity", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("allocation", ["log", "linear"])
def test_later_blocks_give_up_more_and_the_total_is_met(allocation, sparsity):
    plan = _plan(SMOLLM2, sparsity, allocation=allocation, protect_first=1)
    sizes = [plan.shape.parameters_of_block(block) for block in plan.pruned_shape.blocks[1:]]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]
    assert plan.realised == pytest.approx(sparsity, abs=0.005)


@pytest.mark.parametrize("allocation", ["uniform", "paper"])
def test_the_other_blocks_give_up_more_so_that_the_total_stays(allocation):
    shape = LLAMA_7B
    plan = _plan(shape, 0.4, allocation=allocation, protect_first=4, protect_last=4)
    open_block = shape.parameters_of_block(plan.pruned_shape.blocks[10])
    assert 1 - open_block / shape.parameters_of_block(shape.blocks[10]) > 0.5
    assert plan.realised == pytest.approx(0.4, abs=0.005)


@pytest.mark.parametrize("allocation", ["uniform", "paper"])
@pytest.mark.parametrize("round_to", [8, 64, 128])
@pytest.mark.parametrize("sparsity", [0.03, 0.2, 0.5, 0.63])
def test_ffn_widths_become_the_nearest_multiple(allocation, round_to, sparsity):
    options = {"allocation": allocation, "protect_last": 1}
    exact = _plan(SMOLLM2, sparsity, **options).pruned_shape.blocks
    rounded = _plan(SMOLLM2, sparsity, round_to=round_to, **options).pruned_shape.blocks
    for was, now in zip(exact, rounded, strict=True):
        assert now.channels % round_to == 0
        assert abs(now.channels - was.channels) <= round_to / 2
        assert now.heads == was.heads


@pytest.mark.parametrize("round_to", [1000, 1024])
def test_ffn_widths_become_multiples_also_of_large_numbers(round_to):
    plan = _plan(SMOLLM2, 0.05, round_to=round_to)
    assert {block.channels % round_to for block in plan.pruned_shape.blocks} == {0}


def test_ffn_widths_become_multiples_also_where_the_whole_width_is_none():
    shape = model_shape(blocks=2, heads=8, kv_heads=8, width=8, hidden=64, channels=100)
    plan = _plan(shape, 0.02, round_to=64)
    assert plan.pruned_shape.blocks[0].channels == 64


def test_rounding_to_more_than_there_are_channels_is_refused():
    with pytest.raises(InputError):
        _plan(SMOLLM2, 0.3, round_to=2048)


def test_a_block_never_loses_all_its_channels_to_rounding():
    plan = _plan(SMALL_GQA, 0.7, round_to=64)
    assert {block.channels for block in plan.pruned_shape.blocks} == {64}


@pytest.mark.parametrize("seed", range(12))
def test_kept_heads_and_channels_are_those_of_the_highest_scores(seed):
    scores = random_scores(SMALL_MHA, seed=seed)
    plan = make_plan(scores, sparsity=random.Random(seed).uniform(0.05, 0.8))
    for kept, score in zip(plan.blocks, scores.blocks, strict=True):
        for chosen, values in ((kept.heads, score.heads), (kept.channels, score.ffn)):
            best = values.topk(len(chosen)).indices.tolist()
            assert chosen == tuple(sorted(best))


@pytest.mark.parametrize("seed", range(12))
def test_query_heads_are_the_highest_of_each_group_and_as_many_in_all(seed):
    scores = random_scores(SMALL_GQA, seed=seed)
    plan = make_plan(scores, sparsity=random.Random(seed).uniform(0.05, 0.7), allocation="paper")
    for kept, score in zip(plan.blocks, scores.blocks, strict=True):
        for group in range(2):
            mine = [head for head in kept.heads if head // 4 == group]
            best = score.heads[4 * group : 4 * group + 4].topk(len(kept.heads) // 2).indices
            assert mine == sorted(4 * group + int(i) for i in best)


@pytest.mark.parametrize("seed", range(6))
def test_kv_groups_are_the_highest_and_keep_all_their_query_heads(seed):
    scores = random_scores(SMOLLM2, seed=seed)
    plan = make_plan(scores, sparsity=0.4, unit="kv-group")
    for kept, score in zip(plan.blocks, scores.blocks, strict=True):
        groups = sorted(score.kv_groups.topk(2).indices.tolist())
        assert kept.heads == tuple(3 * g + i for g in groups for i in range(3))


def _tied(shape):
    scores = random_scores(shape)
    blocks = tuple(
        BlockScores(*(torch.ones_like(value) for value in vars(block).values()))
        for block in scores.blocks
    )
    return replace(scores, blocks=blocks)


@pytest.mark.parametrize(("shape", "unit"), UNITS_OF.values(), ids=UNITS_OF)
def test_of_equal_scores_the_earlier_go(shape, unit):
    plan = make_plan(_tied(shape), sparsity=0.5, unit=unit)
    channels = len(plan.blocks[0].channels)
    assert plan.blocks[0].channels == tuple(range(96 - channels, 96))
    assert plan.blocks[0].heads == ((4, 5, 6, 7) if unit == "head" else (2, 3, 6, 7))


def test_a_smaller_sparsity_keeps_what_a_larger_one_keeps():
    scores = random_scores(SMOLLM2)
    plans = [make_plan(scores, sparsity=s, allocation="paper") for s in (0.1, 0.3, 0.5, 0.7)]
    for wide, narrow in pairwise(plans):
        for more, less in zip(wide.blocks, narrow.blocks, strict=True):
            assert set(less.heads) <= set(more.heads)
            assert set(less.channels) <= set(more.channels)


@pytest.mark.parametrize(
    ("shape", "unit"), [(SMALL_MHA, "head"), (SMALL_GQA, "query-head"), (SMOLLM2, "query-head")]
)
def test_auto_takes_the_first_unit_that_fits(shape, unit):
    plan = _plan(shape, 0.5)
    assert plan.spec["unit"] == unit
    assert plan == _plan(shape, 0.5, unit=unit)


def test_the_spec_says_where_the_plan_came_from():
    plan = _plan(SMOLLM2, 0.3, seed=5, protect_first=1, round_to=8, allocation="paper")
    assert plan.spec == {
        "criterion": "random",
        "options": {"seed": 5},
        "calibration": None,
        "sparsity": 0.3,
        "unit": "query-head",
        "allocation": "paper",
        "protect_first": 1,
        "protect_last": 0,
        "round_to": 8,
        "floor": 0.0,
    }


def test_a_plan_for_a_model_of_7_billion_parameters_is_made():
    plan = _plan(LLAMA_7B, 0.2)
    assert plan.pruned_shape.block_parameters == pytest.approx(
        0.8 * LLAMA_7B.block_parameters, rel=0.005
    )
