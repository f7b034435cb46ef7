"""How many heads and channels each block keeps at a sparsity. Sizes only, no scores."""

import math
from dataclasses import dataclass

from ..errors import InputError
from ..models.shapes import BlockShape, ModelShape
from ..specs import UNITS
from .resolving import BY_WIDTH, Resolved


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


def allocate(shape: ModelShape, plan: Resolved) -> tuple[BlockBudget, ...]:
    """What every block keeps. At least one attention unit and one channel of each block stay.

    For the allocations that give all blocks the same widths, "uniform" and "paper". Raises
    InputError for another, and for a sparsity that cannot be reached.
    """
    if plan.allocation not in BY_WIDTH:
        raise InputError(
            f"The widths that the allocation {plan.allocation!r} leaves depend on the scores; they "
            "cannot be counted from the sizes alone."
        )
    last = len(shape.blocks) - plan.protect_last
    active = [plan.protect_first <= index < last for index in range(len(shape.blocks))]
    sizes = [shape.parameters_of_block(block) for block in shape.blocks]
    open_size = sum(size for size, is_open in zip(sizes, active, strict=True) if is_open)
    share = plan.sparsity * sum(sizes) / open_size
    budgets = []
    for block, is_open in zip(shape.blocks, active, strict=True):
        units = _units_of(shape, block, plan.unit)
        if not is_open or share == 0:
            budgets.append(BlockBudget(units.count, block.channels))
        elif plan.allocation == "paper":
            budgets.append(_paper(block, units, share, plan.round_to))
        else:
            budgets.append(_uniform(shape, block, units, share, plan.round_to))
    return tuple(budgets)


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
    limit = (units.removable * units.cost + most * channel) / shape.parameters_of_block(block)
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
