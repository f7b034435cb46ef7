"""Changing a plan by hand: plan in, plan out.

Every function gives back a plan that can be applied, whose ``spec`` says in words, under
"edited", what was changed, one sentence an edit; the rest of the spec is kept. What cannot be
done raises InputError. Query heads that share key/value heads do not go alone: every key/value
head that stays needs the same number of query heads, so others go, or come back, with them. The
sentence says which.
"""

from collections.abc import Iterable
from dataclasses import replace

import numpy
from torch import Tensor

from ..criteria import Scores
from ..errors import InputError
from ..models.shapes import BlockShape, check_unit
from ..specs import UNITS
from .plan import BlockPlan, PruningPlan


def edits(plan: PruningPlan) -> list[str]:
    """What was changed by hand, in order; none for a plan as it was made."""
    edited = plan.spec.get("edited")
    return [str(one) for one in edited] if isinstance(edited, list) else []


def drop_head(
    plan: PruningPlan, block: int, head: int, scores: Scores | None = None
) -> PruningPlan:
    """``plan`` without query head ``head`` of a block.

    Where the plan's unit is "kv-group", its whole KV group goes. Where else query heads share
    key/value heads, the lowest-scored kept head of every other KV group goes as well, unless it
    is the last of its group, which then goes alone with it. Without ``scores`` the companions
    are those with the highest index.
    """
    _check_index(plan, block, head, "head", scores)
    was, kept = plan.shape.blocks[block], set(plan.blocks[block].heads)
    if head not in kept:
        raise InputError(f"Head {head} of block {block} is removed already.")
    groups = _by_group(was, kept)
    own = groups[head // was.group]
    if plan.spec.get("unit") == UNITS.KV_GROUP or len(own) == 1:
        gone = own
    else:
        others = [members for members in groups.values() if members and head not in members]
        order = _Order(scores, block)
        gone = [head, *(order.lowest(members) for members in others)]
    note = f"block {block}: head {head} removed{_company(head, gone, scores)}"
    return _with_heads(plan, block, kept - set(gone), note)


def keep_head(
    plan: PruningPlan, block: int, head: int, scores: Scores | None = None
) -> PruningPlan:
    """``plan`` with query head ``head`` of a block back in it.

    Where the plan's unit is "kv-group", or all of the head's KV group is gone, as many of the
    group come back as the other groups have, the highest-scored ones. Else the highest-scored
    removed head of every other KV group that is there comes back as well. Without ``scores``
    those with the lowest index.
    """
    _check_index(plan, block, head, "head", scores)
    was, kept = plan.shape.blocks[block], set(plan.blocks[block].heads)
    if head in kept:
        raise InputError(f"Head {head} of block {block} is kept already.")
    group, order = head // was.group, _Order(scores, block)
    groups = _by_group(was, kept)
    others = {g: members for g, members in groups.items() if members and g != group}
    if groups[group]:
        removed = [[h for h in _members(was, g) if h not in kept] for g in others]
        back = [head, *(order.highest(heads) for heads in removed)]
    else:
        alone = was.group if plan.spec.get("unit") == UNITS.KV_GROUP else 1
        count = len(next(iter(others.values()))) if others else alone
        rest = [h for h in order.descending(_members(was, group)) if h != head]
        back = [head, *rest[: count - 1]]
    note = f"block {block}: head {head} kept{_company(head, back, scores)}"
    return _with_heads(plan, block, kept | set(back), note)


def drop_channels(plan: PruningPlan, block: int, channels: Iterable[int]) -> PruningPlan:
    """``plan`` without these FFN channels of a block."""
    gone = _channel_set(plan, block, channels)
    kept = set(plan.blocks[block].channels)
    if not gone <= kept:
        raise InputError(
            f"Channel {min(gone - kept)} of block {block} is removed already; name only channels "
            "that are kept."
        )
    note = f"block {block}: {_channels(gone)} removed"
    return _with_channels(plan, block, kept - gone, note)


def keep_channels(plan: PruningPlan, block: int, channels: Iterable[int]) -> PruningPlan:
    """``plan`` with these FFN channels of a block back in it."""
    back = _channel_set(plan, block, channels)
    kept = set(plan.blocks[block].channels)
    if back & kept:
        raise InputError(
            f"Channel {min(back & kept)} of block {block} is kept already; name only channels "
            "that are removed."
        )
    note = f"block {block}: {_channels(back)} kept"
    return _with_channels(plan, block, kept | back, note)


def keep_channel_count(plan: PruningPlan, block: int, count: int, scores: Scores) -> PruningPlan:
    """``plan`` with ``count`` FFN channels in a block.

    The lowest-scored kept ones go, or the highest-scored removed ones come back. Of edits of
    this kind that follow each other on one block, only the last is noted.
    """
    _check_block(plan, block)
    check_scores(plan, scores)
    available, kept = plan.shape.blocks[block].channels, plan.blocks[block].channels
    if not 0 <= count <= available:
        raise InputError(f"Block {block} has {available} FFN channels; it cannot keep {count}.")
    if count == len(kept):
        return plan
    values = scores.blocks[block].ffn.numpy()
    stays = numpy.zeros(available, dtype=bool)
    stays[list(kept)] = True
    order = numpy.lexsort((numpy.arange(available), values, stays))  # kept ones last, by score
    chosen = tuple(numpy.sort(order[available - count :]).tolist())
    start = f"block {block}: by score "
    note = f"{start}{count} of {available} FFN channels kept"
    before = edits(plan)
    if before and before[-1].startswith(start):
        before.pop()
    return _replaced(plan, block, replace(plan.blocks[block], channels=chosen), [*before, note])


def protect_block(plan: PruningPlan, block: int) -> PruningPlan:
    """``plan`` with everything in a block kept; the same plan where that is so."""
    _check_block(plan, block)
    was = plan.shape.blocks[block]
    whole = BlockPlan(tuple(range(was.heads)), tuple(range(was.channels)))
    return _noted(plan, block, whole, f"block {block}: everything kept")


def drop_attention(plan: PruningPlan, block: int) -> PruningPlan:
    """``plan`` without the attention of a block; the same plan where that is so."""
    _check_block(plan, block)
    return _with_heads(plan, block, set(), f"block {block}: attention removed")


def drop_ffn(plan: PruningPlan, block: int) -> PruningPlan:
    """``plan`` without the FFN of a block; the same plan where that is so."""
    _check_block(plan, block)
    return _with_channels(plan, block, set(), f"block {block}: FFN removed")


def restore_block(plan: PruningPlan, block: int, original: PruningPlan) -> PruningPlan:
    """``plan`` with a block as it is in ``original``; the same plan where that is so."""
    _check_block(plan, block)
    if original.shape.blocks != plan.shape.blocks:
        raise InputError("The two plans are for models of different shapes.")
    note = f"block {block}: as it was before the edits"
    return _noted(plan, block, original.blocks[block], note)


def check_scores(plan: PruningPlan, scores: Scores) -> None:
    """Raise InputError for scores of a model of another shape than the plan's."""
    if scores.shape.blocks != plan.shape.blocks:
        raise InputError(
            "The scores are of a model of another shape than the plan's; take the model that the "
            "plan was made for."
        )


class _Order:
    """Heads by the scores of a block; without scores by index, the lowest of them the best."""

    def __init__(self, scores: Scores | None, block: int) -> None:
        self._values: Tensor | None = scores.blocks[block].heads if scores else None

    def _key(self, head: int) -> tuple[float, int]:
        """Of equal scores the earlier goes, as in `make_plan`."""
        return (float(self._values[head]), head) if self._values is not None else (-head, head)

    def lowest(self, heads: list[int]) -> int:
        return min(heads, key=self._key)

    def highest(self, heads: list[int]) -> int:
        return max(heads, key=self._key)

    def descending(self, heads: Iterable[int]) -> list[int]:
        return sorted(heads, key=self._key, reverse=True)


def _members(was: BlockShape, group: int) -> range:
    return range(group * was.group, (group + 1) * was.group)


def _by_group(was: BlockShape, kept: set[int]) -> dict[int, list[int]]:
    """The kept query heads of every KV group."""
    return {g: [h for h in _members(was, g) if h in kept] for g in range(was.kv_heads)}


def _company(head: int, all_of_them: list[int], scores: Scores | None) -> str:
    """Which heads go or come back with ``head``, in words; and how they were chosen, where that
    was not by score."""
    others = sorted(set(all_of_them) - {head})
    if not others:
        return ""
    how = "" if scores is not None else " (chosen by index)"
    plural = "s" if len(others) > 1 else ""
    return f", and with it head{plural} {', '.join(map(str, others))}{how}"


def _channels(channels: set[int]) -> str:
    if len(channels) == 1:
        return f"FFN channel {min(channels)}"
    if len(channels) <= 8:
        return f"FFN channels {', '.join(map(str, sorted(channels)))}"
    return f"{len(channels):,} FFN channels"


def _with_heads(plan: PruningPlan, block: int, heads: set[int], note: str) -> PruningPlan:
    return _noted(plan, block, replace(plan.blocks[block], heads=tuple(sorted(heads))), note)


def _with_channels(plan: PruningPlan, block: int, channels: set[int], note: str) -> PruningPlan:
    return _noted(plan, block, replace(plan.blocks[block], channels=tuple(sorted(channels))), note)


def _noted(plan: PruningPlan, block: int, keep: BlockPlan, note: str) -> PruningPlan:
    return _replaced(plan, block, keep, [*edits(plan), note])


def _replaced(plan: PruningPlan, block: int, keep: BlockPlan, notes: list[str]) -> PruningPlan:
    """``plan`` with a block as ``keep`` says; where nothing changes, the plan itself."""
    if keep == plan.blocks[block]:
        return plan
    blocks = (*plan.blocks[:block], keep, *plan.blocks[block + 1 :])
    if not any(of_block.heads for of_block in blocks):
        raise InputError(
            f"Without the attention of block {block} none would be left, and no token could see "
            "another; keep a head in another block first."
        )
    return replace(plan, blocks=blocks, spec={**plan.spec, "edited": notes})


def _check_block(plan: PruningPlan, block: int) -> None:
    if not 0 <= block < len(plan.blocks):
        raise InputError(f"There is no block {block}; the blocks are 0 to {len(plan.blocks) - 1}.")


def _check_index(
    plan: PruningPlan, block: int, index: int, kind: str, scores: Scores | None = None
) -> None:
    if scores is not None:
        _check_block(plan, block)
        check_scores(plan, scores)
    check_unit(plan.shape.blocks, block, kind, index)


def _channel_set(plan: PruningPlan, block: int, channels: Iterable[int]) -> set[int]:
    chosen = set(channels)
    _check_block(plan, block)
    if not chosen:
        raise InputError("No channel is named; name at least one.")
    for channel in (min(chosen), max(chosen)):
        _check_index(plan, block, channel, "channel")
    return chosen
