"""Budgets: the knapsack against brute force, targets met and never exceeded, refusals."""

import itertools
import time
from dataclasses import replace

import pytest
import torch

from bipcore.criteria import CRITERIA
from bipcore.criteria.base import BlockCurves, CurveSettings
from bipcore.criteria.curves import Curves
from bipcore.criteria.elimination import Elimination
from bipcore.errors import InputError
from bipcore.models.shapes import ModelShape
from bipcore.pruning.budget import (
    Option,
    keep_evenly,
    keep_within,
    least_error,
    least_errors,
    predicted_loss,
    tradeoff,
)
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.resolving import resolve
from bipcore.pruning.targets import read_target
from bipcore.specs import PlanSpec
from tests.helpers.shapes import LLAMA_7B, SMOLLM2


def _curve(rounds: int, sets: int, size: float, generator: torch.Generator) -> Elimination:
    """Any curve that rises faster and faster, to ``size``."""
    order = torch.stack([torch.randperm(rounds, generator=generator) for _ in range(sets)], 1)
    rises = torch.rand(rounds, generator=generator, dtype=torch.float64).sort().values ** 3
    errors = torch.cat([torch.zeros(1, dtype=torch.float64), rises.cumsum(0)])
    return Elimination(order, errors * size / errors[-1])


def _curves(shape: ModelShape, *, seed: int = 0) -> Curves:
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for was in shape.blocks:
        size = 0.2 + float(torch.rand((), generator=generator))
        by_group = _curve(was.kv_heads, 1, size, generator)
        by_head = _curve(was.group, was.kv_heads, size, generator) if was.group > 1 else by_group
        blocks.append(BlockCurves(by_head, by_group, _curve(was.channels, 1, size, generator)))
    return Curves(tuple(blocks), CurveSettings(ridge=0.1, fisher=True), shape)


def _within(curves: Curves, target: str, **settings) -> PruningPlan:
    plan = resolve(PlanSpec(**settings), CRITERIA["obs"], curves.shape)
    kept = keep_within(curves, plan, read_target(target))
    return PruningPlan(curves.shape, tuple(BlockPlan(*of_block) for of_block in kept))


@pytest.mark.parametrize("unit", [1.0, 0.37])
@pytest.mark.parametrize("seed", range(5))
def test_the_choice_is_that_of_brute_force(seed, unit):
    generator = torch.Generator().manual_seed(seed)
    sublayers = []
    for _ in range(5):
        errors = torch.rand(4, generator=generator).sort().values.tolist()
        savings = torch.randint(0, 30, (4,), generator=generator).sort().values.tolist()
        rows = zip(range(4), [0, *savings[1:]], [0.0, *errors[1:]], strict=True)
        sublayers.append([Option(rounds, unit * saving, error) for rounds, saving, error in rows])
    most = sum(options[-1].saving for options in sublayers)
    for share in (0.1, 0.4, 0.8, 1.0):
        needed = (round(share * most / unit) - 0.5) * unit
        enough = [
            sum(option.error for option in every)
            for every in itertools.product(*sublayers)
            if sum(option.saving for option in every) >= needed
        ]
        found = least_error(sublayers, needed)
        assert sum(option.saving for option in found) >= needed
        assert sum(option.error for option in found) == pytest.approx(min(enough))


def test_all_there_is_to_save_can_be_saved_where_savings_have_no_common_measure():
    sublayers = [[Option(0, 0.0, 0.0), Option(1, saving, 1.0)] for saving in (0.1, 2**0.5, 3.3)]
    found = least_error(sublayers, 0.1 + 2**0.5 + 3.3)
    assert [option.rounds for option in found] == [1, 1, 1]


@pytest.mark.parametrize(
    "target", ["params=80%", "params=100M", "bytes=90MB@q8_0", "macs=70%", "params=50%"]
)
@pytest.mark.parametrize("unit", ["query-head", "kv-group", "none"])
def test_a_budget_is_met_within_half_a_percent_and_never_exceeded(target, unit):
    curves, wanted = _curves(SMOLLM2), read_target(target)
    plan = _within(curves, target, unit=unit, protect_first=1)
    whole, limit = wanted.cost(SMOLLM2), wanted.limit(SMOLLM2)
    assert 0.995 * limit <= wanted.cost(plan.pruned_shape) <= limit < whole
    assert plan.pruned_shape.blocks[0] == SMOLLM2.blocks[0]
    for block, curve in zip(plan.blocks, curves.blocks, strict=True):
        gone = set(range(1536)) - set(block.channels)
        assert gone == set(curve.ffn.order[: len(gone), 0].tolist())


def test_widths_are_multiples_of_what_is_asked_for():
    plan = _within(_curves(SMOLLM2), "params=70%", round_to=32)
    assert all(len(block.channels) % 32 == 0 for block in plan.blocks)


def test_a_new_target_at_the_shape_of_a_large_model_takes_under_two_seconds():
    curves = _curves(LLAMA_7B)
    start = time.process_time()
    plan = _within(curves, "params=50%")
    assert time.process_time() - start < 2
    assert plan.pruned_shape.parameters <= LLAMA_7B.parameters / 2


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("params=1M", r"params=1M is below the smallest plan, which has params=\d.*M;"),
        ("params=135M", "not below what the dense model has"),
        ("params=100%", "not below what the dense model has"),
        ("energy=3", "no target of the kind 'energy'; there are params, bytes, macs, latency"),
        ("params", "The amount of a target is a number above 0"),
        ("params=-3", "The amount of a target"),
        ("params=5MB", "The amount of a target"),
        ("params=0%", "The amount of a target"),
        ("params=5M@q8_0", "has no type of weights; leave out '?@q8_0"),
        ("bytes=5MB", r"says the type of the weights"),
        ("bytes=5MB@int3", r"says the type of the weights"),
    ],
)
def test_a_target_that_cannot_be_is_refused_in_a_sentence(target, said):
    with pytest.raises(InputError, match=said):
        _within(_curves(SMOLLM2), target)


@pytest.mark.parametrize("seed", range(4))
def test_all_errors_at_once_are_those_of_each_alone(seed):
    generator = torch.Generator().manual_seed(seed)
    sublayers = []
    for _ in range(6):
        errors = torch.rand(5, generator=generator).tolist()  # not even in order
        savings = torch.randint(0, 40, (5,), generator=generator).sort().values.tolist()
        rows = zip(range(5), [0, *savings[1:]], [0.0, *errors[1:]], strict=True)
        sublayers.append([Option(rounds, saving, error) for rounds, saving, error in rows])
    most = sum(options[-1].saving for options in sublayers)
    needed = [share * most for share in (0.05, 0.3, 0.6, 0.95, 1.0)]
    alone = [sum(one.error for one in least_error(sublayers, each)) for each in needed]
    assert least_errors(sublayers, needed) == pytest.approx(alone)


def test_the_tradeoff_is_of_the_plans_that_the_targets_give():
    curves = _curves(SMOLLM2)
    plan = resolve(PlanSpec(protect_first=1), CRITERIA["obs"], curves.shape)
    shares = [0.9, 0.8, 0.6, 0.01]
    found = tradeoff(curves, plan, read_target("params=50%"), shares)
    assert len(found) == 3  # the last is below the smallest plan
    for share, (cost, loss) in zip(shares, found, strict=False):
        made = _within(curves, f"params={100 * share:g}%", protect_first=1)
        assert made.pruned_shape.parameters <= cost == share * curves.shape.parameters
        assert loss == pytest.approx(predicted_loss(curves, made, "query-head"))
        expected = 0.0
        for of_block, keep, was in zip(curves.blocks, made.blocks, made.shape.blocks, strict=True):
            expected += float(of_block.ffn.errors[was.channels - len(keep.channels)])
            expected += float(of_block.heads.errors[(was.heads - len(keep.heads)) // was.kv_heads])
        assert loss == pytest.approx(expected)


def _alike(curves: Curves, target: str, **settings) -> list[PruningPlan]:
    plan = resolve(PlanSpec(**settings), CRITERIA["obs"], curves.shape)
    ways = keep_evenly(curves, plan, read_target(target))
    return [PruningPlan(curves.shape, tuple(BlockPlan(*one) for one in way)) for way in ways]


@pytest.mark.parametrize("unit", ["query-head", "kv-group", "none"])
@pytest.mark.parametrize("target", ["params=85%", "macs=70%@", "bytes=60%@float16"])
def test_the_same_widths_everywhere_are_those_of_brute_force(unit, target):
    target = target.removesuffix("@")
    curves = _curves(SMOLLM2)
    limit = read_target(target).limit(SMOLLM2)
    was, best = SMOLLM2.blocks[0], float("inf")
    units = {"query-head": was.group, "kv-group": was.kv_heads, "none": 1}[unit]
    for gone in range(units):
        of_round = {"query-head": (was.kv_heads, 0), "kv-group": (was.group, 1), "none": (0, 0)}[
            unit
        ]
        heads, kv_heads = was.heads - gone * of_round[0], was.kv_heads - gone * of_round[1]
        for width in range(32, was.channels + 1, 32):
            block = replace(was, heads=heads, kv_heads=kv_heads, channels=width)
            if read_target(target).cost(SMOLLM2.with_blocks((block,) * 30)) > limit:
                continue
            loss = 0.0
            for one in curves.blocks:
                attention = one.kv_groups if unit == "kv-group" else one.heads
                loss += float(attention.errors[gone] + one.ffn.errors[was.channels - width])
            best = min(best, loss)
    found = _alike(curves, target, unit=unit, round_to=32)
    losses = [predicted_loss(curves, plan, unit) for plan in found]
    assert losses[0] == pytest.approx(best)
    assert losses == sorted(losses)
    for plan in found:
        assert len(set(plan.pruned_shape.blocks)) == 1
        assert read_target(target).cost(plan.pruned_shape) <= limit


def test_the_same_widths_everywhere_lose_no_less_than_free_ones():
    curves = _curves(SMOLLM2)
    free = _within(curves, "params=80%", unit="query-head")
    alike = _alike(curves, "params=80%", unit="query-head")[0]
    assert predicted_loss(curves, free, "query-head") <= predicted_loss(curves, alike, "query-head")


def test_the_same_widths_everywhere_are_refused_in_a_sentence():
    with pytest.raises(InputError, match="protect none"):
        _alike(_curves(SMOLLM2), "params=80%", protect_first=1)
    with pytest.raises(InputError, match="below the smallest plan, which has params="):
        _alike(_curves(SMOLLM2), "params=1%")
    plain = Curves(_curves(SMOLLM2).blocks, CurveSettings(ridge=0.1), SMOLLM2)
    with pytest.raises(InputError, match="use the criterion obs-fisher"):
        _alike(plain, "params=80%")
