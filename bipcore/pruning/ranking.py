"""Choosing what stays of the whole model at once: units of all blocks in one order.

`uniform` and `paper` allocations (see `allocation`) give every block its widths first; here the
widths come out of the order, and differ from block to block.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy
import torch
from torch import Tensor

from ..criteria.base import BlockScores, Scores
from ..errors import InputError
from ..models.shapes import BlockShape, ModelShape
from ..specs import UNITS
from .plan import Kept
from .resolving import Resolved


@dataclass(frozen=True, order=True)
class _Unit:
    """Something that goes as a whole: its place in the order, its block, and what it holds."""

    score: float
    block: int
    rank: int
    heads: tuple[int, ...] = field(compare=False)
    channels: tuple[int, ...] = field(compare=False)
    cost: int = field(compare=False)


def keep_globally(scores: Scores, plan: Resolved) -> tuple[Kept, ...]:
    """What stays when the lowest standardised scores of all blocks go (FLAP, arXiv 2312.11983).

    The channel scores of each sublayer of each block are standardised, (s - mean) / deviation;
    an attention unit's is the mean over its channels of what goes with it: what query heads share
    counts once, in the group that goes, or with its last head. Units go in ascending order until
    the parameters asked for are gone, as nearly as possible. Of each sublayer at least the share
    ``floor`` of its units stays, after rounding to ``round_to`` too; with 0 it may go altogether.
    Raises InputError when it cannot be done.
    """
    shape, floor = scores.shape, plan.floor
    _check_finite(scores)
    attention: dict[tuple[int, int], _Unit] = {}
    parts = []
    for index in range(plan.protect_first, len(shape.blocks) - plan.protect_last):
        block = scores.blocks[index]
        units = _removable(_attention_units(index, block, shape, plan.unit), floor)
        attention |= {(one.block, one.rank): one for one in units}
        parts.append(_table([(one.score, one.block, one.rank, one.cost) for one in units]))
        parts.append(_channel_table(index, block, shape, floor))
    score, of_block, rank, cost = numpy.concatenate(parts).T
    order = numpy.lexsort((rank, of_block, score))
    gone = order[: _count_lowest(cost[order], shape, plan.sparsity)]
    kept = []
    for index, was in enumerate(shape.blocks):
        ranks = rank[gone[of_block[gone] == index]].astype(int)
        dropped = {head for r in ranks[ranks < was.heads] for head in attention[index, r].heads}
        stays = numpy.ones(was.channels, dtype=bool)
        stays[ranks[ranks >= was.heads] - was.heads] = False
        heads = tuple(head for head in range(was.heads) if head not in dropped)
        channels = tuple(numpy.flatnonzero(stays).tolist())
        kept.append((heads, _widened(channels, scores.blocks[index].ffn, plan.round_to, floor)))
    return tuple(kept)


def check_reachable(shape: ModelShape, plan: Resolved) -> None:
    """Raise InputError for a sparsity that `keep_globally` cannot reach, whatever the scores."""
    costs: list[int] = []
    for block in shape.blocks[plan.protect_first : len(shape.blocks) - plan.protect_last]:
        channels = [shape.channel_cost.parameters] * block.channels
        for of_sublayer in (_attention_costs(shape, block, plan.unit), channels):
            costs += _removable(of_sublayer, plan.floor)
    _check_enough(costs, shape, plan.sparsity)


def keep_ranked(scores: Scores, plan: Resolved) -> tuple[Kept, ...]:
    """What stays when whole sublayers, or blocks, go in ascending order of their mean channel
    score, as the allocation says.

    For criteria that rank them: the highest score means that a search did not get there, so what
    has it stays. With the unit "none" attention stays. Raises InputError where the search did not
    get far enough.
    """
    _check_finite(scores)
    shape, units = scores.shape, []
    for index in range(plan.protect_first, len(shape.blocks) - plan.protect_last):
        if plan.allocation == "block":
            units += _whole_block(index, scores)
        else:
            units += _whole_sublayers(index, scores, plan.unit)
    every = torch.cat([values for b in scores.blocks for values in (b.attention, b.ffn)])
    ranked = sorted(one for one in units if one.score < float(every.max()))
    costs = numpy.asarray([one.cost for one in ranked], dtype=numpy.float64)
    return _keep_all_but(shape, ranked[: _count_lowest(costs, shape, plan.sparsity)])


def _whole_sublayers(index: int, scores: Scores, unit: str) -> list[_Unit]:
    """The attention and the FFN of a block, as far as they may go."""
    shape, block, units = scores.shape, scores.blocks[index], []
    was = shape.blocks[index]
    heads, channels = tuple(range(was.heads)), tuple(range(was.channels))
    without_heads = shape.parameters_of_block(BlockShape(0, 0, was.channels))
    without_channels = shape.parameters_of_block(BlockShape(was.heads, was.kv_heads, 0))
    whole = shape.parameters_of_block(was)
    if heads and unit != UNITS.NONE:
        rank = float(block.attention.mean())
        units.append(_Unit(rank, index, 0, heads, (), whole - without_heads))
    if channels:
        rank = float(block.ffn.mean())
        units.append(_Unit(rank, index, 1, (), channels, whole - without_channels))
    return units


def _whole_block(index: int, scores: Scores) -> list[_Unit]:
    """A block, if there is anything left of it."""
    shape, block = scores.shape, scores.blocks[index]
    was = shape.blocks[index]
    values = torch.cat([block.attention, block.ffn])
    if not len(values):
        return []
    heads, channels = tuple(range(was.heads)), tuple(range(was.channels))
    cost = shape.parameters_of_block(was)
    return [_Unit(float(values.mean()), index, 0, heads, channels, cost)]


def _check_finite(scores: Scores) -> None:
    values = (values for block in scores.blocks for values in (block.attention, block.ffn))
    if not all(torch.isfinite(of_sublayer).all() for of_sublayer in values):
        raise InputError("The scores are not finite numbers; score the model again.")


def _standardised(values: Tensor) -> Tensor:
    if not len(values):
        return values.double()
    values = values.double()
    deviation = values.std(correction=0)
    return (values - values.mean()) / deviation if deviation > 0 else torch.zeros_like(values)


def _attention_costs(shape: ModelShape, was: BlockShape, unit: str) -> list[int]:
    """The parameters of each attention unit of a block, in ascending order of its rank."""
    if unit == UNITS.NONE or not was.heads:
        return []
    head, kv_head = shape.head_cost.parameters, shape.kv_head_cost.parameters
    if unit != UNITS.QUERY_HEAD:
        return [was.group * head + kv_head] * was.kv_heads
    costs = [was.kv_heads * head] * was.group
    costs[-1] += was.kv_heads * kv_head  # with its last heads a group's key/value head goes
    return costs


def _attention_units(index: int, block: BlockScores, shape: ModelShape, unit: str) -> list[_Unit]:
    """The attention units of a block, ascending by score."""
    was = shape.blocks[index]
    costs = _attention_costs(shape, was, unit)
    if not costs:
        return []
    heads, shared = _apart(block, was)  # (K, H/K), (K,)
    if unit == UNITS.QUERY_HEAD:  # the r-th lowest head of every group goes together
        ordered, order = heads.sort(dim=1, stable=True)
        values = ordered.mean(0)
        values[-1] += shared.mean()  # what a group shares goes with its last head
        members = [
            [g * was.group + int(order[g, r]) for g in range(was.kv_heads)]
            for r in range(was.group)
        ]
    else:
        values = heads.mean(1) + shared / was.group
        members = [list(range(g * was.group, (g + 1) * was.group)) for g in range(was.kv_heads)]
    return sorted(
        _Unit(float(value), index, rank, tuple(sorted(of_unit)), (), cost)
        for rank, (value, of_unit, cost) in enumerate(zip(values, members, costs, strict=True))
    )


def _apart(block: BlockScores, was: BlockShape) -> tuple[Tensor, Tensor]:
    """The standardised scores of query heads alone (K, H/K), and of what the heads of a group
    share (K,), a channel on average. Standardised by all channels, what is shared counted once.

    The sums tell the two apart: `heads` have what is shared once a head, `kv_groups` once.
    """
    own = block.attention.double().view(was.kv_heads, was.group, -1)  # (K, H/K, h)
    shared = own.new_zeros(was.kv_heads)
    if was.group > 1:
        once = block.kv_groups.double()
        more = own.sum((1, 2)) - once
        more[more < 1e-6 * once.abs()] = 0  # rounding, where nothing is shared
        shared = more / (was.group - 1) / own.shape[2]
    alone = own - shared[:, None, None]
    counted_once = alone + shared[:, None, None] / was.group
    deviation = counted_once.std(correction=0)
    if not deviation > 0:
        return torch.zeros_like(alone[..., 0]), torch.zeros_like(shared)
    return (alone.mean(2) - counted_once.mean()) / deviation, shared / deviation


def _table(rows: list[tuple]) -> numpy.ndarray:
    """Units as rows of score, block, rank and cost: (n, 4), float64."""
    return numpy.asarray(rows, dtype=numpy.float64).reshape(-1, 4)


def _channel_table(index: int, block: BlockScores, shape: ModelShape, floor: float):
    """The FFN channels of a block that may go, as a `_table`: the lowest but for the floor's.

    They rank after the attention units: channel j has the rank H + j.
    """
    values = _standardised(block.ffn).numpy()
    chosen = numpy.argsort(values, kind="stable")
    chosen = chosen[: len(values) - _at_least(len(values), floor)]
    rows = numpy.empty((len(chosen), 4))
    rows[:, 0], rows[:, 1] = values[chosen], index
    rows[:, 2], rows[:, 3] = chosen + shape.blocks[index].heads, shape.channel_cost.parameters
    return rows


def _at_least(count: int, floor: float) -> int:
    """How many of ``count`` units the floor keeps."""
    return math.ceil(floor * count - 1e-9)


def _removable(units: list, floor: float) -> list:
    """The units, ascending, but for the highest ones that the floor keeps."""
    return units[: len(units) - _at_least(len(units), floor)]


def _count_lowest(costs: numpy.ndarray, shape: ModelShape, sparsity: float) -> int:
    """How many of the units, whose ``costs`` in parameters stand in ascending order of their
    scores, come nearest to the share asked for when they go."""
    _check_enough(costs.tolist(), shape, sparsity)
    before = numpy.cumsum(costs) - costs
    enough = sparsity * shape.block_parameters - before <= costs / 2
    return int(enough.argmax()) if enough.any() else len(costs)


def _check_enough(costs: list[float], shape: ModelShape, sparsity: float) -> None:
    """Raise InputError where removing all of ``costs`` stays short by more than half a unit."""
    most = sum(costs)
    if sparsity * shape.block_parameters - most > max(costs, default=0) / 2:
        raise InputError(
            f"The sparsity {sparsity:.1%} cannot be reached: at most "
            f"{most / shape.block_parameters:.1%} of the blocks' parameters can go; ask for less, "
            "protect fewer blocks, lower the floor, or rank more."
        )


def _keep_all_but(shape: ModelShape, removed: Sequence[_Unit]) -> tuple[Kept, ...]:
    kept = [(set(range(was.heads)), set(range(was.channels))) for was in shape.blocks]
    for unit in removed:
        kept[unit.block][0].difference_update(unit.heads)
        kept[unit.block][1].difference_update(unit.channels)
    return tuple((tuple(sorted(heads)), tuple(sorted(channels))) for heads, channels in kept)


def _widened(
    channels: tuple[int, ...], values: Tensor, round_to: int, floor: float
) -> tuple[int, ...]:
    """``channels`` to the nearest multiple of ``round_to`` that the floor allows, by score.

    None stays none; where no multiple is allowed, all stay.
    """
    width = len(values)
    if not channels or len(channels) == width:
        return channels
    nearest = max(math.floor(len(channels) / round_to + 0.5), 1)
    fewest = math.ceil(_at_least(width, floor) / round_to)
    count = max(min(nearest, width // round_to), fewest) * round_to
    order = torch.argsort(values, stable=True)
    return tuple(sorted(order[max(width - count, 0) :].tolist()))
