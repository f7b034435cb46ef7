"""Times by width: smoothing, interpolation, and what a knapsack makes of steps in them."""

import itertools
from dataclasses import replace

import pytest
import torch

from bipcore.criteria import CRITERIA
from bipcore.criteria.base import BlockCurves, CurveSettings
from bipcore.criteria.curves import Curves
from bipcore.criteria.elimination import Elimination
from bipcore.errors import InputError
from bipcore.models.shapes import BlockShape, ModelShape, UnitCost
from bipcore.pruning.budget import keep_within
from bipcore.pruning.decode_times import DecodeTimes, ascending, measured_widths, smoothed
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.resolving import resolve
from bipcore.pruning.targets import read_target
from bipcore.specs import PlanSpec
from tests.helpers.shapes import LLAMA_7B, SMOLLM2

SMALL = ModelShape("llama", 8, 2, (BlockShape(4, 4, 5),) * 2, *[UnitCost(10, 10)] * 3, 4, 100, 100)
STEPPED = DecodeTimes(
    attention=((0, 0.0), (1, 2.0), (2, 2.0), (3, 5.5), (4, 6.0)),
    ffn=((0, 0.0), (1, 0.5), (3, 0.7), (4, 4.1), (5, 9.0)),
    outside=3.0,
)
"""Times as far from a line as devices have them: in steps."""


def _curves(seed: int) -> Curves:
    generator = torch.Generator().manual_seed(seed)

    def curve(count: int) -> Elimination:
        errors = torch.rand(count, generator=generator, dtype=torch.float64).cumsum(0)
        order = torch.randperm(count, generator=generator)[:, None]
        return Elimination(order, torch.cat([torch.zeros(1, dtype=torch.float64), errors]))

    blocks = []
    for was in SMALL.blocks:
        heads = curve(was.heads)
        blocks.append(BlockCurves(heads, heads, curve(was.channels)))
    return Curves(tuple(blocks), CurveSettings(ridge=0.1, fisher=True), SMALL)


def _loss(curves: Curves, blocks: tuple[BlockShape, ...]) -> float:
    return sum(
        float(curve.kv_groups.errors[was.heads - now.heads])
        + float(curve.ffn.errors[was.channels - now.channels])
        for curve, was, now in zip(curves.blocks, SMALL.blocks, blocks, strict=True)
    )


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", ["85%", "60%", "31%"])
def test_with_times_in_steps_the_plan_is_that_of_brute_force(seed, share):
    curves = _curves(seed)
    target = replace(read_target(f"latency={share}"), times=STEPPED)
    kept = keep_within(curves, resolve(PlanSpec(), CRITERIA["obs"], SMALL), target)
    found = PruningPlan(SMALL, tuple(BlockPlan(*each) for each in kept)).pruned_shape
    every = [BlockShape(heads, heads, width) for heads in range(5) for width in range(6)]
    limit = target.limit(SMALL)
    allowed = [
        _loss(curves, pair)
        for pair in itertools.product(every, repeat=2)
        if target.cost(SMALL.with_blocks(pair)) <= limit
    ]
    assert target.cost(found) <= limit
    assert _loss(curves, found.blocks) == pytest.approx(min(allowed))


def test_a_noisy_table_never_falls_and_is_the_nearest_that_does_not():
    assert ascending([1, 3, 2, 2, 5, 4]) == pytest.approx([1, 7 / 3, 7 / 3, 7 / 3, 4.5, 4.5])
    assert ascending([3, 2, 1]) == [2, 2, 2]
    assert ascending([1, 1, 2]) == [1, 1, 2]
    noise = torch.randn(40, generator=torch.Generator().manual_seed(0)).tolist()
    times = [10 + 0.1 * width + each for width, each in enumerate(noise)]
    series = smoothed(range(40), times, blocks=4)
    rising = [time for _, time in series]
    assert rising == sorted(rising)
    assert series[0] == (0, 0.0)
    assert 4 * sum(rising) + 40 * ascending(times)[0] == pytest.approx(sum(times))


def test_between_two_widths_times_are_interpolated():
    times = STEPPED.milliseconds(SMALL.with_blocks((BlockShape(4, 4, 2), BlockShape(0, 0, 0))))
    assert times == pytest.approx(3 + 6 + 0.6)
    beyond = STEPPED.milliseconds(SMALL.with_blocks((BlockShape(9, 9, 9),)))
    assert beyond == pytest.approx(3 + 6 + 9)


@pytest.mark.parametrize("shape", [SMOLLM2, LLAMA_7B, SMALL])
@pytest.mark.parametrize("unit", ["query-head", "kv-group", "none"])
def test_what_is_measured_goes_from_gone_to_whole_and_is_few(shape, unit):
    attention, channels = measured_widths(shape, unit)
    whole = shape.blocks[0]
    assert (attention[0].heads, attention[0].kv_heads, attention[-1]) == (0, 0, whole)
    assert (channels[0], channels[-1]) == (0, whole.channels)
    heads = [block.heads for block in attention]
    assert heads == sorted(set(heads))
    assert channels == sorted(set(channels))
    assert len(attention) <= 10
    assert len(channels) <= 10
    assert all(block.heads % max(block.kv_heads, 1) == 0 for block in attention)


@pytest.mark.parametrize("blocks", [SMALL.blocks[:1], (*SMALL.blocks, BlockShape(2, 2, 5))])
def test_one_block_or_blocks_that_differ_are_refused(blocks):
    with pytest.raises(InputError, match="two blocks or more, all of the same widths"):
        measured_widths(SMALL.with_blocks(blocks), "head")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("latency=2ms", r"below the smallest plan, which has latency=3ms@128; ask for more"),
        ("latency=33ms", r"not below what the dense model has, latency=33ms@128"),
        ("latency=30", "of latency is a number above 0 such as 30ms or 60%, not '30'"),
        ("latency=30s", "of latency is a number above 0"),
        ("latency=30M", "of latency is a number above 0"),
        ("latency=0ms", "of latency is a number above 0"),
        ("latency=30ms@", "how many tokens are in the cache"),
        ("latency=30ms@q8_0", "how many tokens are in the cache, latency=30ms@128, not 'q8_0'"),
        ("params=30ms", "The amount of a target is a number above 0"),
        ("bytes=30ms@q8_0", "The amount of a target is a number above 0"),
    ],
)
def test_a_latency_that_cannot_be_is_refused_in_a_sentence(target, said):
    with pytest.raises(InputError, match=said):
        _planned(target)


def _planned(target: str) -> None:
    wanted = replace(read_target(target), times=STEPPED)
    keep_within(_curves(0), resolve(PlanSpec(), CRITERIA["obs"], SMALL), wanted)


def test_a_latency_says_its_context():
    assert read_target("latency=30ms@512").context == 512
    assert read_target("latency=60%").context == 128
    with pytest.raises(InputError, match="needs times that were measured"):
        read_target("latency=60%").cost(SMALL)
