"""Plans whose widths come out of one order over all blocks, against plain Python loops."""

import math
import random
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from bipcore.criteria import BlockScores, Scores
from bipcore.criteria.base import ChannelScores, sum_by_unit
from bipcore.errors import InputError
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.ranking import _attention_units, check_reachable
from bipcore.pruning.resolving import Resolved
from tests.helpers.pruning import UNITS, assert_same_outputs, plan_for, pruned_and_masked
from tests.helpers.shapes import SMALL_GQA, SMALL_MHA, model_shape, random_scores
from tests.helpers.tiny import FAMILIES
from tests.helpers.tiny import one_thread as one_thread

THREE = model_shape(blocks=5, heads=9, kv_heads=3, width=4, hidden=48, channels=40)
UNIT_CASES = [
    (SMALL_MHA, "head"),
    (SMALL_GQA, "query-head"),
    (SMALL_GQA, "kv-group"),
    (SMALL_GQA, "none"),
    (THREE, "query-head"),
    (THREE, "kv-group"),
]
each_unit = pytest.mark.parametrize(("shape", "unit"), UNIT_CASES)


def _plan(scores, sparsity, **options) -> PruningPlan:
    return make_plan(scores, sparsity=sparsity, **({"allocation": "global"} | options))


def _with_ffn(scores, block: int, values) -> Scores:
    """``scores`` with other channel scores of one FFN."""
    changed = replace(scores.blocks[block], ffn=values)
    return replace(scores, blocks=(*scores.blocks[:block], changed, *scores.blocks[block + 1 :]))


def _z(values) -> list[float]:
    values = [float(value) for value in values]
    mean = math.fsum(values) / len(values)
    deviation = math.sqrt(math.fsum((v - mean) ** 2 for v in values) / len(values))
    return [(value - mean) / deviation for value in values]


def _naive_attention(of_block, was, unit, width) -> list[tuple[float, set[int]]]:
    z, group = _z(of_block.attention), was.heads // was.kv_heads
    head = [math.fsum(z[h * width : (h + 1) * width]) / width for h in range(was.heads)]
    groups = [list(range(g * group, (g + 1) * group)) for g in range(was.kv_heads)]
    if unit == "head":
        return [(head[h], {h}) for h in range(was.heads)]
    if unit == "kv-group":
        return [(math.fsum(head[h] for h in g) / group, set(g)) for g in groups]
    if unit == "none":
        return []
    ranked = [sorted(g, key=lambda h: head[h]) for g in groups]
    slices = [[of_group[rank] for of_group in ranked] for rank in range(group)]
    return [(math.fsum(head[h] for h in hs) / len(hs), set(hs)) for hs in slices]


def _naive_units(scores, unit, first, last, floor) -> list[tuple[float, int, str, set[int]]]:
    """Everything that may go: score, block, heads or channels, and which."""
    units = []
    for index in range(first, len(scores.blocks) - last):
        of_block, was = scores.blocks[index], scores.shape.blocks[index]
        attention = _naive_attention(of_block, was, unit, scores.shape.head_dim)
        channels = [(value, {j}) for j, value in enumerate(_z(of_block.ffn))]
        for kind, found in (("heads", attention), ("channels", channels)):
            stay = math.ceil(round(floor * len(found), 6))
            lowest = sorted(found, key=lambda unit: unit[0])[: len(found) - stay]
            units += [(value, index, kind, members) for value, members in lowest]
    return sorted(units, key=lambda unit: unit[0])


def _left(shape, kept) -> int:
    """The parameters of the blocks, counted from the kept indices."""
    blocks = (
        BlockPlan(tuple(sorted(k["heads"])), tuple(sorted(k["channels"]))).shape(was)
        for k, was in zip(kept, shape.blocks, strict=True)
    )
    return sum(shape.parameters_of_block(block) for block in blocks)


def _naive_plan(scores, sparsity, unit, first=0, last=0, floor=0.0) -> tuple[BlockPlan, ...]:
    """Take the lowest unit of the whole model away as long as that brings the total nearer."""
    shape = scores.shape
    kept = [
        {"heads": set(range(b.heads)), "channels": set(range(b.channels))} for b in shape.blocks
    ]
    target = (1 - sparsity) * shape.block_parameters
    for _, index, kind, members in _naive_units(scores, unit, first, last, floor):
        before = _left(shape, kept)
        kept[index][kind] -= members
        if abs(_left(shape, kept) - target) >= abs(before - target):
            kept[index][kind] |= members
            break
    return tuple(BlockPlan(tuple(sorted(k["heads"])), tuple(sorted(k["channels"]))) for k in kept)


@each_unit
@pytest.mark.parametrize("seed", range(4))
def test_global_equals_a_naive_sort_over_all_units(shape, unit, seed):
    rng = random.Random(seed)
    for floor, first, last in ((0.0, 0, 0), (0.3, 1, 0), (0.1, 0, 2)):
        scores = random_scores(shape, seed=seed)
        sparsity = rng.uniform(0.02, 0.95) * _most(shape, unit, floor, first, last)
        plan = _plan(
            scores, sparsity, unit=unit, floor=floor, protect_first=first, protect_last=last
        )
        assert plan.blocks == _naive_plan(scores, sparsity, unit, first, last, floor)


@each_unit
@pytest.mark.parametrize("sparsity", [0, 0.001, 0.05, 0.2, 0.37, 0.5])
def test_what_is_realised_is_asked_within_half_a_unit(shape, unit, sparsity):
    widest = shape.parameters_of_block(shape.blocks[0]) / 4  # more than any unit
    plan = _plan(random_scores(shape, seed=3), sparsity, unit=unit)
    assert abs(plan.realised - sparsity) * shape.block_parameters <= widest / 2
    if unit == "none":
        one = shape.channel_cost.parameters
        assert abs(plan.realised - sparsity) * shape.block_parameters <= one / 2 + 1e-6


def _most(shape, unit, floor, first=0, last=0) -> float:
    """The largest share that the floor allows to go."""
    whole = _naive_units(random_scores(shape), unit, first, last, floor)
    kept = [
        {"heads": set(range(b.heads)), "channels": set(range(b.channels))} for b in shape.blocks
    ]
    for _, index, kind, members in whole:
        kept[index][kind] -= members
    return 1 - _left(shape, kept) / shape.block_parameters


@each_unit
@pytest.mark.parametrize("floor", [0.1, 1 / 3, 0.5, 0.9])
def test_the_floor_is_what_stays_of_every_sublayer_when_all_else_goes(shape, unit, floor):
    plan = _plan(random_scores(shape), _most(shape, unit, floor), unit=unit, floor=floor)
    heads, kv_heads, channels = vars(shape.blocks[0]).values()
    units = {"head": heads, "kv-group": kv_heads, "query-head": heads // kv_heads, "none": 1}[unit]
    share = math.ceil(round(floor * units, 6)) / units
    for block in plan.pruned_shape.blocks:
        assert block.channels == math.ceil(floor * channels)
        assert block.heads == share * heads


@each_unit
def test_at_every_sparsity_no_sublayer_keeps_less_than_the_floor(shape, unit):
    for share in (0.2, 0.6, 0.95):
        sparsity = share * _most(shape, unit, 0.4)
        plan = _plan(random_scores(shape, seed=5), sparsity, unit=unit, floor=0.4)
        for block, was in zip(plan.pruned_shape.blocks, shape.blocks, strict=True):
            assert block.heads >= 0.4 * was.heads
            assert block.channels >= 0.4 * was.channels


@each_unit
@pytest.mark.parametrize("floor", [0, 0.5, 1])
def test_sparsity_0_keeps_everything(shape, unit, floor):
    plan = _plan(random_scores(shape), 0, unit=unit, floor=floor, round_to=7)
    assert plan.pruned_shape == shape
    assert (plan.realised, plan.realised_total) == (0, 0)


def test_with_a_floor_of_1_nothing_can_go():
    with pytest.raises(InputError, match=r"at most 0\.0%"):
        _plan(random_scores(SMALL_GQA), 0.1, floor=1)


def test_protected_blocks_stay_whole_and_the_widths_of_the_others_differ():
    plan = _plan(random_scores(SMALL_GQA), 0.4, protect_first=2, protect_last=1)
    whole = [block == SMALL_GQA.blocks[0] for block in plan.pruned_shape.blocks]
    assert whole == [True, True, False, False, False, True]
    assert not plan.uniform
    assert len({block.channels for block in plan.pruned_shape.blocks[2:5]}) > 1
    assert plan.realised == pytest.approx(0.4, abs=0.01)


@pytest.mark.parametrize("seed", range(5))
def test_every_key_value_head_keeps_as_many_query_heads(seed):
    for sparsity in (0.1, 0.3, 0.6):
        plan = _plan(random_scores(SMALL_GQA, seed=seed), sparsity)
        assert plan.spec["unit"] == "query-head"
        for block in plan.blocks:
            assert len([h for h in block.heads if h < 4]) == len([h for h in block.heads if h > 3])


def test_whole_groups_go_or_nothing_of_the_attention():
    grouped = _plan(random_scores(SMALL_GQA, seed=1), 0.5, unit="kv-group")
    assert {b.heads for b in grouped.blocks} <= {(), (0, 1, 2, 3), (4, 5, 6, 7), tuple(range(8))}
    alone = _plan(random_scores(SMALL_GQA), 0.5, unit="none")
    assert {block.heads for block in alone.blocks} == {tuple(range(8))}


def test_a_sublayer_may_go_altogether_where_there_is_no_floor():
    scores = random_scores(SMALL_MHA)
    skewed = torch.ones(96).index_fill_(0, torch.tensor([7]), -100)  # all but one above the mean
    for block in range(6):
        scores = _with_ffn(scores, block, torch.zeros(96) if block == 2 else skewed)
    sparsity = (5 + 96) * SMALL_MHA.channel_cost.parameters / SMALL_MHA.block_parameters
    plan = _plan(scores, sparsity, unit="none")
    assert plan.blocks[2].channels == ()
    assert all(len(plan.blocks[block].channels) == 95 for block in (0, 1, 3, 4, 5))
    assert PruningPlan.from_json(plan.to_json()) == plan
    kept = _plan(scores, sparsity, unit="none", floor=0.25).pruned_shape.blocks[2]
    assert kept.channels == 24


@pytest.mark.parametrize("floor", [0, 0.5, 0.9])
@pytest.mark.parametrize("round_to", [5, 8, 20, 64])
def test_widths_are_the_nearest_multiples_that_the_floor_allows(round_to, floor):
    scores = random_scores(SMALL_MHA, seed=2)
    sparsity = 0.04 if floor == 0.9 else 0.3
    exact = _plan(scores, sparsity, floor=floor)
    for was, now in zip(
        exact.blocks, _plan(scores, sparsity, floor=floor, round_to=round_to).blocks, strict=True
    ):
        multiples = [n for n in range(0, 97, round_to) if n and n >= 96 * floor] or [96]
        distance = min(abs(len(was.channels) - n) for n in multiples)
        assert len(now.channels) in (*multiples, 96)
        assert abs(len(now.channels) - len(was.channels)) == distance
        assert set(now.channels) <= set(was.channels) or set(was.channels) <= set(now.channels)
        assert now.heads == was.heads


@each_unit
def test_of_equal_scores_the_earlier_go(shape, unit):
    ones = tuple(
        BlockScores(*map(torch.ones_like, vars(b).values())) for b in random_scores(shape).blocks
    )
    plan = _plan(replace(random_scores(shape), blocks=ones), 0.1, unit=unit, floor=0.5)
    flat = [len(block.channels) for block in plan.blocks]
    assert flat == sorted(flat)
    for block in plan.blocks:
        assert block.channels == tuple(range(shape.blocks[0].channels))[-len(block.channels) :]
    if unit in ("head", "kv-group"):
        assert (
            plan.blocks[0].heads
            == tuple(range(shape.blocks[0].heads))[-len(plan.blocks[0].heads) :]
        )


def test_the_scale_of_a_sublayers_scores_does_not_count():
    scores = random_scores(SMALL_GQA, seed=4)
    scaled = _with_ffn(scores, 3, 1024 * scores.blocks[3].ffn)
    assert _plan(scaled, 0.3).blocks == _plan(scores, 0.3).blocks


def test_a_smaller_sparsity_keeps_what_a_larger_one_keeps():
    plans = [_plan(random_scores(THREE), s) for s in (0, 0.1, 0.25, 0.4, 0.6)]
    for wide, narrow in pairwise(plans):
        for more, less in zip(wide.blocks, narrow.blocks, strict=True):
            assert set(less.heads) <= set(more.heads)
            assert set(less.channels) <= set(more.channels)


@pytest.mark.parametrize("allocation", ["global", "sublayer"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_refused(bad, allocation):
    scores = random_scores(SMALL_MHA)
    scores.blocks[4].ffn[5] = bad
    if allocation == "sublayer":
        scores = replace(scores, criterion="blockpruner")
    with pytest.raises(InputError, match="finite"):
        _plan(scores, 0.2, allocation=allocation)


@each_unit
@pytest.mark.parametrize(("floor", "first"), [(0.5, 0), (0.0, 3), (0.9, 1)])
def test_what_cannot_be_reached_is_known_without_scores(shape, unit, floor, first):
    most = _most(shape, unit, floor, first)
    settings = {"unit": unit, "floor": floor, "protect_first": first}
    for sparsity in (most + 0.05, min(most + 0.3, 0.999)):
        with pytest.raises(InputError, match=f"at most {most:.1%}") as caught:
            _plan(random_scores(shape), sparsity, **settings)
        assert "\n" not in str(caught.value)
        with pytest.raises(InputError, match=f"at most {most:.1%}"):
            check_reachable(shape, Resolved(sparsity=sparsity, **settings))
    check_reachable(shape, Resolved(sparsity=most, **settings))
    assert _plan(random_scores(shape), most, **settings).realised == pytest.approx(most)


@pytest.mark.parametrize("floor", [-0.1, 1.1, math.nan, "0.5", None])
def test_a_floor_that_is_no_share_is_refused(floor):
    with pytest.raises(InputError, match="floor is a number from 0 to 1"):
        _plan(random_scores(SMALL_MHA), 0.2, floor=floor)


@pytest.mark.parametrize(("name", "unit"), [(n, u) for n in FAMILIES for u in (*UNITS[n], "none")])
def test_sliced_equals_masked(name, unit):
    plan = plan_for(name, 0.25, allocation="global", unit=unit, floor=0.2)
    assert not plan.uniform
    assert PruningPlan.from_json(plan.to_json()) == plan
    assert_same_outputs(*pruned_and_masked(name, plan))


def _shared_scores(shape, query, shared) -> Scores:
    """Scores of one block that a criterion with shared key/value weights gives: `sum_by_unit` of
    query (H·h,) and shared (K·h,)."""
    was = shape.blocks[0]
    weights = SimpleNamespace(heads=was.heads, kv_heads=was.kv_heads, head_dim=shape.head_dim)
    channels = ChannelScores(query, shared, torch.full((was.channels,), 1e3))
    return Scores((sum_by_unit(channels, weights),), "wanda", {}, shape)


def test_what_a_group_shares_counts_once_whatever_its_size():
    """Of the groups (10, 9) the 9 goes, though its heads have more of what they share."""
    shape = model_shape(blocks=1, heads=4, kv_heads=2, width=4, hidden=48, channels=8)
    query = torch.tensor([4.5, 4.5, 1.0, 1.0]).repeat_interleave(4) / 4
    shared = torch.tensor([1.0, 7.0]).repeat_interleave(4) / 4
    scores = _shared_scores(shape, query, shared)

    assert scores.blocks[0].kv_groups.tolist() == [10, 9]
    assert scores.blocks[0].heads.tolist() == [5.5, 5.5, 8, 8]
    plan = _plan(scores, 0.3, unit="kv-group")
    assert plan.blocks[0].heads == (0, 1)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("unit", ["query-head", "kv-group"])
def test_units_score_what_goes_with_them(unit, seed):
    generator = torch.Generator().manual_seed(seed)
    shape = model_shape(blocks=1, heads=6, kv_heads=2, width=4, hidden=48, channels=8)
    query, shared = (torch.rand(n * 4, generator=generator) for n in (6, 2))
    shared = shared.view(2, 4).mean(1).repeat_interleave(4)  # the same for every channel of a group
    scores = _shared_scores(shape, query, shared)
    units = _attention_units(0, scores.blocks[0], shape, unit)

    q, s = query.view(2, 3, 4).double(), shared.view(2, 4).double()
    every = q + s[:, None] / 3
    mean, deviation = every.mean(), every.std(correction=0)
    for one in units:
        heads = sorted(one.heads)
        values = [float(q.view(6, 4)[h].mean()) for h in heads]
        lost = sum(values) / len(values)
        if unit == "kv-group":
            lost += float(s[heads[0] // 3].mean()) / 3
        elif one is units[-1]:
            lost += float(s.mean())
        assert one.score == pytest.approx((lost - float(mean)) / float(deviation), abs=1e-5)
