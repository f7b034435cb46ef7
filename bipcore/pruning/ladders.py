"""The levels of every sublayer, from whole to gone, which a search over widths goes up and down."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from ..criteria.base import Scores
from ..models.shapes import BlockShape
from ..specs import UNITS
from .allocation import BlockBudget
from .budget import widths_of
from .choosing import choose
from .level_search import Levels
from .plan import BlockPlan, PruningPlan
from .resolving import Resolved

Indices = tuple[int, ...]


@dataclass(frozen=True)
class Level:
    """What is ``kept`` of a sublayer, heads or channels, and the ``cost`` of a block that keeps
    them and all of its other sublayer."""

    kept: Indices
    cost: float


class Ladders:
    """The levels of the attention and the FFN of every block that is not protected, in turn.

    At every width the highest ``scores`` stay, as `make_plan` has it, but where ``start`` has that
    width, what ``start`` keeps. The widths of FFNs are those of `budget.keep_within`. ``cost`` is
    what a block of given widths costs, a sum over its sublayers.
    """

    def __init__(
        self,
        scores: Scores,
        plan: Resolved,
        start: PruningPlan,
        cost: Callable[[BlockShape], float],
    ) -> None:
        self._scores, self._unit, self._start, self._cost = scores, plan.unit, start, cost
        self._blocks = range(plan.protect_first, len(start.blocks) - plan.protect_last)
        self.of: list[tuple[Level, ...]] = []
        for index in self._blocks:
            self.of += [self._attention(index), self._ffn(index, plan.round_to)]

    @property
    def costs(self) -> list[list[float]]:
        """What each sublayer costs at each of its levels, descending."""
        return [[level.cost for level in ladder] for ladder in self.of]

    @property
    def start(self) -> Levels:
        """The levels that ``start`` has."""
        keeps = [self._start.blocks[index] for index in self._blocks]
        kept = [of_sublayer for keep in keeps for of_sublayer in (keep.heads, keep.channels)]
        return tuple(
            [level.kept for level in ladder].index(own)
            for ladder, own in zip(self.of, kept, strict=True)
        )

    def plan(self, levels: Levels) -> PruningPlan:
        """The plan with these levels; it has no spec."""
        blocks = list(self._start.blocks)
        kept = [ladder[level].kept for ladder, level in zip(self.of, levels, strict=True)]
        for index, heads, channels in zip(self._blocks, kept[::2], kept[1::2], strict=True):
            blocks[index] = BlockPlan(heads, channels)
        return PruningPlan(self._start.shape, tuple(blocks))

    def _attention(self, index: int) -> tuple[Level, ...]:
        was, keep = self._start.shape.blocks[index], self._start.blocks[index]
        counts = {
            UNITS.HEAD: range(was.heads + 1),
            UNITS.QUERY_HEAD: range(was.group + 1 if was.heads else 0),
            UNITS.KV_GROUP: range(was.kv_heads + 1),
            UNITS.NONE: (),
        }
        widths = [self._chosen(index, count, 0).heads for count in counts[self._unit]]
        kept = _with_own(widths, keep.heads)
        shapes = (BlockPlan(heads, ()).shape(was) for heads in kept)
        costs = (self._cost(replace(shape, channels=was.channels)) for shape in shapes)
        return tuple(map(Level, kept, costs))

    def _ffn(self, index: int, round_to: int) -> tuple[Level, ...]:
        was, keep = self._start.shape.blocks[index], self._start.blocks[index]
        counts = widths_of(was.channels, round_to)
        widths = [self._chosen(index, 0, count).channels for count in counts]
        kept = _with_own(widths, keep.channels)
        costs = (self._cost(replace(was, channels=len(channels))) for channels in kept)
        return tuple(map(Level, kept, costs))

    def _chosen(self, index: int, units: int, channels: int) -> BlockPlan:
        """The best so many attention units and channels of a block."""
        scores, was = self._scores.blocks[index], self._start.shape.blocks[index]
        return BlockPlan(*choose(scores, BlockBudget(units, channels), was, self._unit))


def _with_own(chosen: Iterable[Indices], own: Indices) -> list[Indices]:
    """What is ``chosen`` at each width, from the widest on, with ``own`` at its width."""
    by_width = {len(kept): kept for kept in chosen} | {len(own): own}
    return [by_width[width] for width in sorted(by_width, reverse=True)]
