"""The plan with the least error for a budget: a knapsack over the curves of the sublayers.

Every sublayer has options: so many heads or channels gone in the order of its curve, each with the
error that stays and what it saves. One option of each is chosen such that the errors add up to the
least there is and the savings are enough. That errors add up is the model behind it: true to a good
approximation for small cuts, and less and less for large ones.
"""

import bisect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy

from ..criteria.base import BlockCurves
from ..criteria.curves import Curves
from ..criteria.elimination import Elimination
from ..errors import InputError
from ..models.shapes import BlockShape
from ..specs import UNITS
from .plan import Kept, PruningPlan
from .resolving import Resolved
from .targets import Target, block_costs

MOST_UNITS = 30_000
"""Savings are counted in units of which there are at most so many: whole ones where all savings
have a common measure, else rounded down, so that a budget is never exceeded."""

STEPS = 96
"""An FFN has about so many widths to choose from."""


@dataclass(frozen=True)
class Option:
    """So many rounds of a curve gone: what that saves, and the error that stays."""

    rounds: int
    saving: float
    error: float


def least_error(sublayers: Sequence[Sequence[Option]], needed: float) -> list[Option]:
    """One option of every sublayer, of the least sum of errors with savings of at least ``needed``.

    The first option of each saves nothing, and the last most; these together save ``needed`` at
    least. Exact where the savings have a common measure of which `MOST_UNITS` are enough.
    """
    unit = _measure(sublayers)
    goal = math.ceil(needed / unit - 1e-9)
    best, choices = _filled(sublayers, goal, unit)
    if not math.isfinite(best[goal]):  # by what rounding down left of the savings
        return [options[-1] for options in sublayers]
    found, at = [], goal
    for options, (before, choice) in zip(reversed(sublayers), reversed(choices), strict=True):
        option = options[choice[at]]
        saved = min(math.floor(option.saving / unit + 1e-9), goal)
        if at == goal:  # from any of those that were enough with it
            at = goal - saved + int(before[goal - saved :].argmin())
        else:
            at -= saved
        found.append(option)
    return found[::-1]


def least_errors(sublayers: Sequence[Sequence[Option]], needed: Sequence[float]) -> list[float]:
    """The sum of errors that `least_error` has for each of ``needed``, from one pass over all."""
    unit = _measure(sublayers)
    goals = [math.ceil(one / unit - 1e-9) for one in needed]
    best, _ = _filled(sublayers, max(goals, default=0), unit)
    enough = numpy.minimum.accumulate(best[::-1])[::-1]  # the least of so much or more
    most = sum(options[-1].error for options in sublayers)
    return [float(enough[goal]) if math.isfinite(enough[goal]) else most for goal in goals]


def _filled(
    sublayers: Sequence[Sequence[Option]], goal: int, unit: float
) -> tuple[numpy.ndarray, list[tuple[numpy.ndarray, numpy.ndarray]]]:
    """The least error for every saving of 0 to ``goal`` units (the last: so much or more), and for
    every sublayer what it was before it, with the number of the option that was best."""
    best = numpy.full(goal + 1, math.inf)
    best[0] = 0.0
    choices = []
    for options in sublayers:
        after, choice = numpy.full(goal + 1, math.inf), numpy.zeros(goal + 1, numpy.int32)
        for number, option in enumerate(options):
            saved = min(math.floor(option.saving / unit + 1e-9), goal)
            moved = numpy.full(goal + 1, math.inf)
            moved[saved:] = best[: goal + 1 - saved] + option.error
            moved[goal] = best[goal - saved :].min() + option.error
            better = moved < after
            after[better], choice[better] = moved[better], number
        best, choices = after, [*choices, (best, choice)]
    return best, choices


def _measure(sublayers: Sequence[Sequence[Option]]) -> float:
    """The unit that savings are counted in."""
    savings = [option.saving for options in sublayers for option in options if option.saving]
    total = sum(max(option.saving for option in options) for options in sublayers)
    if all(saving == int(saving) for saving in savings):
        common = math.gcd(*map(int, savings))
        if common and total / common <= MOST_UNITS:
            return common
    return max(total / MOST_UNITS, math.ulp(1.0))


def keep_within(curves: Curves, plan: Resolved, target: Target) -> tuple[Kept, ...]:
    """What stays of every block so that the model costs at most ``target``, with the least error.

    The errors are predicted losses, in nats, of curves weighed by the Fisher matrix. Others cannot
    be compared: shares of each sublayer's output gave 58.0 on the demo model where uniform widths
    gave 38.4, as a few tokens of some sublayers are most of it. Sublayers may go as wholes;
    protected blocks stay; FFN widths are multiples of ``plan.round_to`` and about a `STEPS`-th
    apart. Raises InputError for a
    target below the smallest plan, or not below the dense model, and for other curves.
    """
    needed, sublayers = _sublayers(curves, plan, target)
    shape = curves.shape
    open_blocks = range(plan.protect_first, len(shape.blocks) - plan.protect_last)
    most = sum(options[-1].saving for options in sublayers)
    if needed > most:
        raise _below(target, target.cost(shape) - most)
    chosen = iter(least_error(sublayers, needed))
    kept = []
    for index, was in enumerate(shape.blocks):
        if index not in open_blocks:
            kept.append((tuple(range(was.heads)), tuple(range(was.channels))))
            continue
        block, attention, ffn = curves.blocks[index], next(chosen), next(chosen)
        kept.append(_kept(block, was, plan.unit, attention.rounds, ffn.rounds))
    return tuple(kept)


def keep_evenly(curves: Curves, plan: Resolved, target: Target) -> Iterator[tuple[Kept, ...]]:
    """What stays of every block, all of the same widths, so that the model costs at most
    ``target``: for every number of heads that may stay the most channels that do, the least sum
    of predicted losses first. Each sublayer keeps something.

    That is a search over all widths, since a loss only falls with more channels. For a model whose
    blocks are alike. Raises InputError as `keep_within` does, and where blocks are protected.
    """
    _check_comparable(curves)
    if plan.protect_first or plan.protect_last:
        raise InputError(
            "A program that has the same widths in every block takes no plan that protects some of "
            "them; protect none."
        )
    shape, limit = curves.shape, target.limit(curves.shape)
    was, count = shape.blocks[0], len(shape.blocks)
    by_head = plan.unit == UNITS.QUERY_HEAD
    heads = [block.heads if by_head else block.kv_groups for block in curves.blocks]
    rounds = range(1 if plan.unit == UNITS.NONE else max(len(heads[0].order), 1))
    multiples = range(plan.round_to, was.channels, plan.round_to)
    widths = [*multiples, was.channels]

    def cost(gone: int, width: int) -> float:
        block = replace(shorter(was, plan.unit, gone), channels=width)
        return target.cost(shape.with_blocks((block,) * count))

    found = []
    for gone in rounds:
        within = bisect.bisect_right(widths, limit, key=lambda width, gone=gone: cost(gone, width))
        if within:
            out = was.channels - widths[within - 1]
            loss = sum(float(one.errors[gone]) for one in heads)
            loss += sum(float(block.ffn.errors[out]) for block in curves.blocks)
            found.append((loss, gone, out))
    if not found:
        raise _below(target, cost(rounds[-1], widths[0]))
    for _, gone, out in sorted(found):
        yield tuple(_kept(block, was, plan.unit, gone, out) for block in curves.blocks)


def _kept(block: BlockCurves, was: BlockShape, unit: str, gone: int, out: int) -> Kept:
    """What stays of a block where so many rounds of its attention and of its FFN are gone."""
    channels = block.ffn.order[out:, 0].sort().values.tolist()
    return _heads(block, was, unit, gone), tuple(channels)


def _below(target: Target, smallest: float) -> InputError:
    """That no plan meets ``target``, the ``smallest`` one costing so much."""
    if target.kind != "latency":
        smallest = math.ceil(smallest)
    return InputError(
        f"The target {target.text} is below the smallest plan, which has "
        f"{target.said(smallest)}; ask for more, or protect fewer blocks."
    )


def tradeoff(
    curves: Curves, plan: Resolved, target: Target, shares: Sequence[float]
) -> list[tuple[float, float]]:
    """What plans cost, of the kind that ``target`` counts, and the loss that is predicted of each,
    in nats: of those of `keep_within` for ``shares`` of the dense model's cost, as far as there
    are."""
    whole, (_, sublayers) = target.cost(curves.shape), _sublayers(curves, plan, target)
    most = sum(options[-1].saving for options in sublayers)
    costs = [share * whole for share in shares if whole * (1 - share) <= most]
    return list(zip(costs, least_errors(sublayers, [whole - cost for cost in costs]), strict=True))


def predicted_loss(curves: Curves, plan: PruningPlan, unit: str) -> float:
    """The loss, in nats, that ``curves`` predict of a plan: the sum over its sublayers, as if what
    went of each was the first of its curve. ``unit``: that of its attention."""
    total = 0.0
    for block, keep, was in zip(curves.blocks, plan.blocks, plan.shape.blocks, strict=True):
        heads = block.heads if unit == UNITS.QUERY_HEAD else block.kv_groups
        total += float(block.ffn.errors[was.channels - len(keep.channels)])
        if was.heads:
            rounds = round((1 - len(keep.heads) / was.heads) * len(heads.order))
            total += float(heads.errors[rounds])
    return total


def _sublayers(curves: Curves, plan: Resolved, target: Target) -> tuple[float, list[list[Option]]]:
    """What ``target`` asks to be saved, and the options of the sublayers, of every block that is
    open its attention and its FFN."""
    _check_comparable(curves)
    shape, cost = curves.shape, block_costs(target, curves.shape)
    needed = target.cost(shape) - target.limit(shape)
    open_blocks = range(plan.protect_first, len(shape.blocks) - plan.protect_last)
    found = _Options(curves, plan, cost)
    sublayers = [each(index) for index in open_blocks for each in (found.attention, found.ffn)]
    return needed, sublayers


def _check_comparable(curves: Curves) -> None:
    """Raise InputError where the errors of two sublayers say nothing of each other."""
    if not curves.settings.fisher:
        raise InputError(
            "A target takes errors that can be compared from sublayer to sublayer, which only the "
            "curves of obs-fisher have; use the criterion obs-fisher."
        )


@dataclass(frozen=True)
class _Options:
    """The options of the sublayers, by the rounds that are gone, ascending."""

    curves: Curves
    plan: Resolved
    cost: Callable[[BlockShape], float]

    def attention(self, index: int) -> list[Option]:
        was, block = self.curves.shape.blocks[index], self.curves.blocks[index]
        curve = block.heads if self.plan.unit == UNITS.QUERY_HEAD else block.kv_groups
        rounds = range(1 if self.plan.unit == UNITS.NONE else len(curve.order) + 1)
        return self._of(curve, was, {gone: shorter(was, self.plan.unit, gone) for gone in rounds})

    def ffn(self, index: int) -> list[Option]:
        was, curve = self.curves.shape.blocks[index], self.curves.blocks[index].ffn
        widths = widths_of(was.channels, self.plan.round_to)
        left = {was.channels - width: replace(was, channels=width) for width in widths}
        return self._of(curve, was, left)

    def _of(
        self, curve: Elimination, was: BlockShape, left: Mapping[int, BlockShape]
    ) -> list[Option]:
        """Those that leave the widths ``left``, by rounds."""
        whole = self.cost(was)
        return [
            Option(gone, whole - self.cost(shape), float(curve.errors[gone]))
            for gone, shape in left.items()
        ]


def widths_of(channels: int, round_to: int) -> list[int]:
    """The FFN widths to choose from, descending: all, and multiples of a step down to 0."""
    apart = channels / STEPS
    if round_to > 1:
        step = round_to * max(math.ceil(apart / round_to), 1)
    else:
        step = 2 ** max(math.ceil(math.log2(apart)), 0) if channels else 1
    below = range((channels - 1) // step * step, -1, -step) if channels else ()
    return [channels, *below]


def shorter(was: BlockShape, unit: str, gone: int) -> BlockShape:
    """The widths of a block whose attention is ``gone`` rounds shorter."""
    if unit == UNITS.QUERY_HEAD:
        heads = (was.group - gone) * was.kv_heads
        return replace(was, heads=heads, kv_heads=was.kv_heads if heads else 0)
    kv_heads = was.kv_heads - gone
    return replace(was, heads=kv_heads * was.group, kv_heads=kv_heads)


def _heads(block: BlockCurves, was: BlockShape, unit: str, gone: int) -> tuple[int, ...]:
    """The query heads that stay."""
    group = was.group
    if unit == UNITS.QUERY_HEAD:
        dropped = {
            number * group + int(head)
            for choice in block.heads.order[:gone]
            for number, head in enumerate(choice)
        }
    else:
        groups = block.kv_groups.order[:gone, 0].tolist()
        dropped = {one * group + head for one in groups for head in range(group)}
    return tuple(head for head in range(was.heads) if head not in dropped)
