"""How many heads and channels each block keeps at a sparsity. Sizes only, no scores."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import InputError
from ..models.shapes import BlockShape, ModelShape
from ..specs import UNITS
from .resolving import BY_DEPTH, BY_WIDTH, Resolved
from .shares import SHARES, met


@dataclass(frozen=True)
class BlockBudget:
    """What a block keeps: attention units (query heads *per KV group* for "query-head", query
    heads for "none"), and FFN channels."""

    attention: int
    channels: int


@dataclass(frozen=True)
class _BlockUnits:
    """The attention units of a block: how many, what removing one saves in parameters, and how
    many may go."""

    count: int
    cost: int
    removable: int


def _units_of(shape: ModelShape, block: BlockShape, unit: str) -> _BlockUnits:
    head, kv_head = shape.head_cost.parameters, shape.kv_head_cost.parameters
    if block.heads == 0 or unit == UNITS.NONE:
        return _BlockUnits(block.heads, 0, removable=0)
    group = block.group
    if unit == UNITS.HEAD:
        count, cost = block.heads, head + kv_head
    elif unit == UNITS.KV_GROUP:
        count, cost = block.kv_heads, group * head + kv_head
    else:
        count, cost = group, block.kv_heads * head
    return _BlockUnits(count, cost, removable=count - 1)


def allocate(
    shape: ModelShape, plan: Resolved, depth: Sequence[float] = ()
) -> tuple[BlockBudget, ...]:
    """What every block keeps. At least one attention unit and one channel of each block stay.

    For the allocations whose widths do not depend on the scores. ``depth``: one number a block,
    for those that ask for one. Raises InputError for another, and for a sparsity that cannot be
    reached.
    """
    if plan.allocation in BY_DEPTH and not depth:
        raise InputError(
            f"The allocation {plan.allocation!r} asks for one number a block, which these scores "
            "do not have; plan it with a `Pipeline`."
        )
    if plan.allocation not in (*BY_WIDTH, *BY_DEPTH):
        raise InputError(
            f"The widths that the allocation {plan.allocation!r} leaves depend on the scores; they "
            "cannot be counted from the sizes alone."
        )
    last = len(shape.blocks) - plan.protect_last
    active = range(plan.protect_first, last)
    shares = _shares(shape, plan, depth or [0.0] * len(shape.blocks), active)
    budgets = []
    for index, block in enumerate(shape.blocks):
        units = _units_of(shape, block, plan.unit)
        if index not in active or plan.sparsity == 0:
            budgets.append(BlockBudget(units.count, block.channels))
        elif plan.allocation == "paper":
            budgets.append(_paper(block, units, shares[index], plan.round_to))
        else:
            budgets.append(_uniform(shape, block, units, shares[index], plan.round_to))
    return tuple(budgets)


def _shares(
    shape: ModelShape, plan: Resolved, depth: Sequence[float], active: range
) -> dict[int, float]:
    """The share of its parameters that each of the ``active`` blocks gives up, by its number: the
    same for all, or what the function of the allocation gives."""
    sizes = [shape.parameters_of_block(block) for block in shape.blocks]
    own = [sizes[index] for index in active]
    share = plan.sparsity * sum(sizes) / sum(own)
    if plan.allocation not in SHARES:
        return dict.fromkeys(active, share)
    blocks = [shape.blocks[index] for index in active]
    most = [_most(shape, block, _units_of(shape, block, plan.unit)) for block in blocks]
    wanted = SHARES[plan.allocation]([depth[index] for index in active], share)
    return dict(zip(active, met(wanted, own, share, most), strict=True))


def _most(shape: ModelShape, block: BlockShape, units: _BlockUnits) -> float:
    """The largest share of its parameters that a block can give up."""
    channels = max(block.channels - 1, 0)
    gone = units.removable * units.cost + channels * shape.channel_cost.parameters
    return gone / shape.parameters_of_block(block)


def allocated_shape(shape: ModelShape, plan: Resolved) -> ModelShape:
    """The sizes that `allocate` leaves; no scores are needed."""
    blocks = []
    for block, budget in zip(shape.blocks, allocate(shape, plan), strict=True):
        heads, kv_heads = {
            UNITS.HEAD: (budget.attention, budget.attention),
            UNITS.KV_GROUP: (budget.attention * block.group, budget.attention),
            UNITS.QUERY_HEAD: (budget.attention * block.kv_heads, block.kv_heads),
            UNITS.NONE: (block.heads, block.kv_heads),
        }[plan.unit]
        blocks.append(BlockShape(heads, kv_heads, budget.channels))
    return shape.with_blocks(tuple(blocks))


def _uniform(
    shape: ModelShape, block: BlockShape, units: _BlockUnits, share: float, round_to: int
) -> BlockBudget:
    """Heads to remove rounded down; the channels make up the difference.

    Where the channels alone cannot, more heads go, one at a time.
    """
    channel = shape.channel_cost.parameters
    to_remove = share * shape.parameters_of_block(block)
    most = max(block.channels - 1, 0)
    fewest = min(math.floor(share * units.count + 1e-9), units.removable)
    for removed in range(fewest, units.removable + 1):
        channels = math.floor((to_remove - removed * units.cost) / channel + 0.5)
        if channels <= most:
            kept = block.channels - max(channels, 0)
            return BlockBudget(units.count - removed, _rounded(kept, block.channels, round_to))
    limit = _most(shape, block, units)
    raise InputError(
        f"The sparsity asks a block to give up {share:.1%} of its parameters, but it can give up "
        f"at most {limit:.1%}, one attention unit and one channel being kept; ask for less, "
        "protect fewer blocks, or take another attention unit."
    )


def _paper(block: BlockShape, units: _BlockUnits, share: float, round_to: int) -> BlockBudget:
    """The share of the heads and the share of the channels, each rounded to the nearest."""
    if share >= 1:
        raise InputError("With these blocks protected the others would have to lose everything.")
    heads = min(math.floor(share * units.count + 0.5), units.removable)
    channels = block.channels - math.floor(share * block.channels + 0.5)
    kept = _rounded(channels, block.channels, round_to)
    return BlockBudget(units.count - heads, kept)


def _rounded(kept: int, available: int, round_to: int) -> int:
    """``kept`` to the nearest multiple of ``round_to``, at least one, at most what there is."""
    multiples = max(math.floor(kept / round_to + 0.5), 1)
    return min(multiples, available // round_to) * round_to
