"""How many heads and channels each block keeps at a sparsity. Sizes only, no scores."""

import math
from dataclasses import dataclass
from numbers import Real

from ..errors import InputError
from ..models.shapes import BlockShape, ModelShape

ALLOCATIONS = ("auto", "uniform", "paper", "global", "sublayer")
_BY_WIDTH = ("uniform", "paper")


class UNITS:
    """The units of attention that a plan can remove."""

    HEAD = "head"
    QUERY_HEAD = "query-head"
    KV_GROUP = "kv-group"
    NONE = "none"
    ALL = ("auto", HEAD, QUERY_HEAD, KV_GROUP, NONE)


@dataclass(frozen=True)
class BlockBudget:
    """What a block keeps: attention units (query heads *per KV group* for "query-head", query
    heads for "none"), and FFN channels."""

    attention: int
    channels: int


def resolve_unit(unit: str, shape: ModelShape) -> str:
    """``unit`` with "auto" replaced by the first that fits the model; raises InputError."""
    if unit not in UNITS.ALL:
        raise InputError(f"There is no unit {unit!r}; there are {', '.join(UNITS.ALL)}.")
    shared = any(block.heads != block.kv_heads for block in shape.blocks)
    if unit == "auto":
        return UNITS.QUERY_HEAD if shared else UNITS.HEAD
    if unit == UNITS.QUERY_HEAD and not shared:
        return UNITS.HEAD  # every query head has a key/value head of its own, which goes with it
    if unit == UNITS.HEAD and shared:
        raise InputError(
            "The model's query heads share key/value heads, so a single head cannot be "
            "removed; use the unit query-head or kv-group."
        )
    return unit


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
    shape: ModelShape,
    *,
    sparsity: float,
    unit: str,
    allocation: str,
    protect_first: int,
    protect_last: int,
    round_to: int,
) -> tuple[BlockBudget, ...]:
    """What every block keeps. At least one attention unit and one channel of each block stay.

    For the allocations that give all blocks the same widths, "uniform" ("auto" counts as it)
    and "paper". Raises InputError for values out of range, and for a sparsity that cannot be
    reached.
    """
    check_settings(
        shape,
        sparsity=sparsity,
        unit=unit,
        allocation=allocation,
        protect_first=protect_first,
        protect_last=protect_last,
        round_to=round_to,
    )
    if allocation not in ("auto", *_BY_WIDTH):
        raise InputError(
            f"The widths that the allocation {allocation!r} leaves depend on the scores; they "
            "cannot be counted from the sizes alone."
        )
    last = len(shape.blocks) - protect_last
    active = [protect_first <= index < last for index in range(len(shape.blocks))]
    sizes = [shape.parameters_of_block(block) for block in shape.blocks]
    open_size = sum(size for size, is_open in zip(sizes, active, strict=True) if is_open)
    share = sparsity * sum(sizes) / open_size
    budgets = []
    for block, is_open in zip(shape.blocks, active, strict=True):
        units = _units_of(shape, block, unit)
        if not is_open or share == 0:
            budgets.append(BlockBudget(units.count, block.channels))
        elif allocation == "paper":
            budgets.append(_paper(block, units, share, round_to))
        else:
            budgets.append(_uniform(shape, block, units, share, round_to))
    return tuple(budgets)


def allocated_shape(shape: ModelShape, **settings) -> ModelShape:
    """The sizes that `allocate` with the same ``settings`` leaves; no scores are needed."""
    unit = settings["unit"]
    blocks = []
    for block, budget in zip(shape.blocks, allocate(shape, **settings), strict=True):
        heads, kv_heads = {
            UNITS.HEAD: (budget.attention, budget.attention),
            UNITS.KV_GROUP: (budget.attention * block.group, budget.attention),
            UNITS.QUERY_HEAD: (budget.attention * block.kv_heads, block.kv_heads),
            UNITS.NONE: (block.heads, block.kv_heads),
        }[unit]
        blocks.append(BlockShape(heads, kv_heads, budget.channels))
    return shape.with_blocks(tuple(blocks))


def check_settings(
    shape: ModelShape,
    *,
    sparsity: float,
    unit: str,
    allocation: str,
    protect_first: int,
    protect_last: int,
    round_to: int,
    floor: float = 0.0,
) -> None:
    """Raise InputError for settings that no plan of a model of these sizes can have."""
    resolve_unit(unit, shape)
    if not (isinstance(floor, Real) and 0 <= floor <= 1):
        raise InputError(f"The floor is a number from 0 to 1, not {floor}.")
    if not (isinstance(sparsity, Real) and 0 <= sparsity < 1):
        raise InputError(f"The sparsity is a number from 0 to below 1, not {sparsity}.")
    if allocation not in ALLOCATIONS:
        have = ", ".join(ALLOCATIONS)
        raise InputError(f"There is no allocation {allocation!r}; there are {have}.")
    for value, least, name in (
        (protect_first, 0, "The number of protected first blocks"),
        (protect_last, 0, "The number of protected last blocks"),
        (round_to, 1, "The multiple that widths are rounded to"),
    ):
        if not isinstance(value, int) or value < least:
            raise InputError(f"{name} is a whole number, at least {least}, not {value!r}.")
    if protect_first + protect_last >= len(shape.blocks):
        raise InputError(
            f"Protecting {protect_first} + {protect_last} blocks leaves none of the "
            f"{len(shape.blocks)} to prune; protect fewer."
        )
    narrowest = min((block.channels for block in shape.blocks if block.channels), default=0)
    if sparsity and narrowest and round_to > narrowest:
        raise InputError(
            f"A width of {narrowest} channels cannot become a multiple of {round_to}; round to "
            "less."
        )


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
