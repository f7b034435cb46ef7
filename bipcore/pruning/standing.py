"""Where one head or one FFN channel stands: its rank by a criterion, and what a plan does with it.

What is said of a plan is said only as far as it is so: that a unit lies below a cut, where the
plan keeps exactly those that stand above it by its criterion's scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..criteria import Scores, find_criterion
from ..models.shapes import check_unit
from ..specs import UNITS
from .editing import edits
from .plan import PruningPlan


@dataclass(frozen=True)
class Standing:
    """A unit's ``score`` by a criterion, and its ``rank`` among the ``of`` units of its kind in its
    block: 1 is the highest score; of equal scores the later is ahead, as a plan keeps it."""

    criterion: str
    score: float
    rank: int
    of: int


@dataclass(frozen=True)
class Fate:
    """Whether a plan removes a unit (``goes``), and a sentence that says why."""

    goes: bool
    sentence: str


def standing(scores: Scores, block: int, kind: str, number: int) -> Standing:
    """Where a ``kind`` ("head" or "channel") of a block stands. Raises InputError for one that
    there is not."""
    check_unit(scores.shape.blocks, block, kind, number)
    of_block = scores.blocks[block]
    values = (of_block.heads if kind == "head" else of_block.ffn).tolist()
    return Standing(scores.criterion, values[number], _rank(values, number), len(values))


def fate(
    plan: PruningPlan, block: int, kind: str, number: int, scores: Scores | None = None
) -> Fate:
    """What ``plan`` does with a ``kind`` ("head" or "channel") of a block, and why.

    ``scores``: those that the plan was made from, if they are at hand. Raises InputError for a
    block or a unit that there is not.
    """
    check_unit(plan.shape.blocks, block, kind, number)
    kept = plan.blocks[block]
    goes = number not in (kept.heads if kind == "head" else kept.channels)
    why = _of_whole(plan, block, kind) or _of_hand(plan, block, kind)
    if why is None and scores is not None and scores.criterion != plan.spec.get("criterion"):
        scores = None
    why = why or _of_part(plan, block, kind, number, scores)
    verb = "goes" if goes else "stays"
    return Fate(goes, f"{kind.capitalize()} {number} of block {block} {verb}: {why}.")


def _of_whole(plan: PruningPlan, block: int, kind: str) -> str | None:
    """Why all or none of a sublayer stays, as far as that was not done by hand; None where neither
    is so."""
    kept = plan.blocks[block]
    if plan.removes_nothing:
        return "the plan removes nothing"
    if _notes(plan, block, kind):
        return None
    count, left = _widths(plan, block, kind)
    sublayer = "attention" if kind == "head" else "FFN"
    if not left:
        gone = not kept.heads and not kept.channels
        return f"block {block} goes whole" if gone else f"the whole {sublayer} of the block goes"
    if left < count:
        return None
    said = (plan.spec.get(f"protect_{end}") for end in ("first", "last"))
    first, last = (one if isinstance(one, int) else 0 for one in said)
    if block < first or block >= len(plan.blocks) - last:
        return "its block is protected"
    if kind == "head" and plan.spec.get("unit") == UNITS.NONE:
        return "the plan keeps every attention whole"
    return f"all {count:,} {kind}s of the block stay"


def _of_hand(plan: PruningPlan, block: int, kind: str) -> str | None:
    """What was changed by hand in a sublayer; None where nothing was."""
    notes = _notes(plan, block, kind)
    if not notes:
        return None
    count, left = _widths(plan, block, kind)
    said = f"the {kind}s of its block were edited by hand (last: {notes[-1]})"
    return f"{said}, and {_stay(left, count)}"


def _notes(plan: PruningPlan, block: int, kind: str) -> list[str]:
    """What was changed by hand in the block, as far as it is about its ``kind`` of units."""
    start = f"block {block}: "
    other = ("FFN",) if kind == "head" else ("head", "attention")
    found = [note.removeprefix(start) for note in edits(plan) if note.startswith(start)]
    return [note for note in found if not any(word in note for word in other)]


def _stay(left: int, count: int, what: str = "") -> str:
    units = f" {what}" if what else ""
    return f"{left:,} of {count:,}{units} {'stays' if left == 1 else 'stay'}"


def _widths(plan: PruningPlan, block: int, kind: str) -> tuple[int, int]:
    """How many heads or channels the block has, and how many stay."""
    was, kept = plan.shape.blocks[block], plan.blocks[block]
    return (was.heads, len(kept.heads)) if kind == "head" else (was.channels, len(kept.channels))


@dataclass(frozen=True)
class _Pool:
    """Units of which the highest-scored may stay: what they are called, those that stay, the place
    of the unit in question among them, and their scores, if they are at hand. ``own``: what to
    call that unit where it is not the head itself."""

    what: str
    kept: frozenset[int]
    count: int
    place: int
    values: Sequence[float] | None
    own: str = ""


def _of_part(plan: PruningPlan, block: int, kind: str, number: int, scores: Scores | None) -> str:
    """Why a unit goes or stays where a part of its sublayer goes."""
    pool = _pool_of(plan, block, kind, number, scores)
    goes = pool.place not in pool.kept
    said = _stay(len(pool.kept), pool.count, pool.what)
    if pool.own:
        said = f"{pool.own} {'goes' if goes else 'stays'}, {said}"
    if pool.values is None:
        return said
    order = sorted(range(pool.count), key=lambda one: (-pool.values[one], -one))
    if set(order[: len(pool.kept)]) != pool.kept:
        return said  # something else than the scores decided
    title, rank = find_criterion(scores.criterion).title, order.index(pool.place) + 1
    return f"{said}, and by {title} it is number {rank:,}, {'below' if goes else 'above'} the cut"


def _pool_of(plan: PruningPlan, block: int, kind: str, number: int, scores: Scores | None) -> _Pool:
    was, kept = plan.shape.blocks[block], plan.blocks[block]
    of_block = scores.blocks[block] if scores else None
    if kind == "channel":
        values = of_block and of_block.ffn.tolist()
        what = "channels of the block"
        return _Pool(what, frozenset(kept.channels), was.channels, number, values)
    if was.group == 1:
        values = of_block and of_block.heads.tolist()
        what = "heads of the block"
        return _Pool(what, frozenset(kept.heads), was.heads, number, values)
    group, groups = number // was.group, frozenset(head // was.group for head in kept.heads)
    whole = len(kept.heads) == len(groups) * was.group
    if whole or group not in groups:
        values = of_block.kv_groups.tolist() if of_block and whole else None
        what, own = "KV groups of the block", f"its KV group {group}"
        return _Pool(what, groups, was.kv_heads, group, values, own)
    start = group * was.group
    members = range(start, start + was.group)
    stay = frozenset(head - start for head in kept.heads if head in members)
    values = of_block and of_block.heads[start : start + was.group].tolist()
    return _Pool(f"heads of its KV group {group}", stay, was.group, number - start, values)


def _rank(values: Sequence[float], place: int) -> int:
    """The rank of the score at ``place``, from 1, of equal ones the later first."""
    own = values[place]
    ahead = sum(one > own for one in values)
    return 1 + ahead + sum(one == own for one in values[place + 1 :])
