"""Where criteria agree: the order of their scores, and what their plans remove.

All plans that are compared are plans of the same model. Pure functions: scores and plans in, data
frames out.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations

import numpy
import pandas as pd

from ..criteria import Scores
from ..errors import InputError
from .plan import PruningPlan

UNIT_KINDS = ("head", "channel")
CLASSES = ("kept by both", "removed by both", "only first", "only second")
"""What two plans do with a unit; "only first": the first plan removes it, the second keeps it."""

Masks = dict[str, numpy.ndarray]
"""Of one block, by `UNIT_KINDS`: which heads (H,) and which channels (F,) a plan removes."""


_PAIR = ["first", "second", "kind"]


def compare_criteria(scored: Mapping[str, tuple[Scores, PruningPlan]]) -> pd.DataFrame:
    """The frames of `rank_correlations` and `overlaps` in one, for named scores and plans."""
    plans = overlaps({name: plan for name, (_, plan) in scored.items()})
    orders = rank_correlations({name: scores for name, (scores, _) in scored.items()})
    return plans.merge(orders, on=[*_PAIR, "block"], how="left")


def rank_correlations(scores: Mapping[str, Scores]) -> pd.DataFrame:
    """Spearman's rank correlation of the scores of every two criteria, block by block.

    One row for each pair, kind (of `UNIT_KINDS`) and block: columns first, second, kind, block and
    ``rank_correlation``, -1 to 1, ties averaged; nan where the scores of one of the two are all
    the same, or not finite. Raises InputError for scores of models of different shapes.
    """
    _check_same({name: of_one.shape for name, of_one in scores.items()})
    ranked = {name: [_ranks_of(block) for block in one.blocks] for name, one in scores.items()}
    rows = [
        (first, second, kind, block, _correlation(a[kind], b[kind]))
        for first, second in combinations(ranked, 2)
        for kind in UNIT_KINDS
        for block, (a, b) in enumerate(zip(ranked[first], ranked[second], strict=True))
    ]
    return pd.DataFrame(rows, columns=[*_PAIR, "block", "rank_correlation"])


def _ranks_of(block) -> dict[str, numpy.ndarray]:
    return {"head": ranks(block.heads.numpy()), "channel": ranks(block.ffn.numpy())}


def ranks(values: numpy.ndarray) -> numpy.ndarray:
    """The ranks of ``values`` (N,), float64, from 1; equal values share the mean of theirs."""
    if not numpy.isfinite(values).all():
        return numpy.full(len(values), numpy.nan)
    return pd.Series(values).rank().to_numpy()


def _correlation(a: numpy.ndarray, b: numpy.ndarray) -> float:
    a, b = a - a.mean() if len(a) else a, b - b.mean() if len(b) else b
    size = float(numpy.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else float("nan")


def removed_masks(plan: PruningPlan) -> list[Masks]:
    """What ``plan`` removes of every block."""
    return [
        {"head": _gone(keep.heads, was.heads), "channel": _gone(keep.channels, was.channels)}
        for keep, was in zip(plan.blocks, plan.shape.blocks, strict=True)
    ]


def _gone(kept: tuple[int, ...], count: int) -> numpy.ndarray:
    gone = numpy.ones(count, dtype=bool)
    gone[numpy.fromiter(kept, numpy.int64, len(kept))] = False
    return gone


_COUNTS = ["units", "removed_first", "removed_second", "common"]


def overlaps(plans: Mapping[str, PruningPlan]) -> pd.DataFrame:
    """What every two plans both remove, block by block.

    One row for each pair, kind (of `UNIT_KINDS`) and block: columns first, second, kind, block, and

    - ``units`` there are; ``removed_first``, ``removed_second`` and in ``common``;
    - ``expected``: how many two plans that remove as many each at random, independently, have in
      common on average;
    - ``share``: the common ones as a share of how many the two remove on average, which is the
      plain share where both remove as many; ``jaccard``: as a share of what either removes;
    - ``share_chance`` and ``jaccard_chance``: the same with the expected number in common.

    Shares are from 0 to 1, and nan where neither removes anything. Raises InputError for plans
    of models of different shapes.
    """
    _check_same({name: plan.shape for name, plan in plans.items()})
    masks = {name: removed_masks(plan) for name, plan in plans.items()}
    rows = [
        (first, second, kind, block, *_counts(a[kind], b[kind]))
        for first, second in combinations(masks, 2)
        for kind in UNIT_KINDS
        for block, (a, b) in enumerate(zip(masks[first], masks[second], strict=True))
    ]
    return _with_shares(pd.DataFrame(rows, columns=[*_PAIR, "block", *_COUNTS, "expected"]))


def _counts(a: numpy.ndarray, b: numpy.ndarray) -> tuple[int, int, int, int, float]:
    first, second = int(a.sum()), int(b.sum())
    expected = first * second / len(a) if len(a) else 0.0
    return len(a), first, second, int((a & b).sum()), expected


def over_all_blocks(by_block: pd.DataFrame) -> pd.DataFrame:
    """The frame of `overlaps` or `compare_criteria` with all blocks taken together.

    It has no column block; ``rank_correlation`` is the mean over the blocks that have one, and
    ``expected`` is for removing as many of every block as the plans do.
    """
    of_pair = by_block.groupby(_PAIR, sort=False, as_index=False)
    frame = _with_shares(of_pair[[*_COUNTS, "expected"]].sum())
    if "rank_correlation" not in by_block:
        return frame
    return frame.merge(of_pair[["rank_correlation"]].mean(), on=_PAIR)


def _with_shares(frame: pd.DataFrame) -> pd.DataFrame:
    removed = frame["removed_first"] + frame["removed_second"]
    for number, suffix in (("common", ""), ("expected", "_chance")):
        frame[f"share{suffix}"] = _ratio(2 * frame[number], removed)
        frame[f"jaccard{suffix}"] = _ratio(frame[number], removed - frame[number])
    return frame


def _ratio(part: pd.Series, whole: pd.Series) -> pd.Series:
    return part / whole.where(whole > 0)


def overlap_matrix(overall: pd.DataFrame, kind: str, measure: str = "share") -> pd.DataFrame:
    """The overlaps of all pairs of `over_all_blocks` as a square. On its diagonal there is 1, or
    nan for a plan that removes nothing.

    ``measure``: one of the shares, a column of the frame.
    """
    of_kind = overall[overall["kind"] == kind]
    names = list(dict.fromkeys([*of_kind["first"], *of_kind["second"]]))
    square = pd.DataFrame(1.0, index=names, columns=names)
    for row in of_kind.itertuples():
        value = getattr(row, measure)
        square.loc[row.first, row.second] = square.loc[row.second, row.first] = value
        for name, removed in ((row.first, row.removed_first), (row.second, row.removed_second)):
            square.loc[name, name] = 1.0 if removed else float("nan")
    return square


def compare_plans(first: PruningPlan, second: PruningPlan) -> pd.DataFrame:
    """What one plan keeps and the other does not.

    One row for each block and kind (of `UNIT_KINDS`): columns block, kind, the numbers
    ``kept_by_both``, ``removed_by_both``, ``only_first`` (the first alone removes them) and
    ``only_second``, and of the last two the indices, ``only_first_removes`` and
    ``only_second_removes``, ascending tuples. Raises InputError for plans of models of different
    shapes.
    """
    rows = []
    for block, kind, a, b in _pairs(first, second):
        rows.append(
            {
                "block": block,
                "kind": kind,
                "kept_by_both": int((~a & ~b).sum()),
                "removed_by_both": int((a & b).sum()),
                "only_first": int((a & ~b).sum()),
                "only_second": int((b & ~a).sum()),
                "only_first_removes": tuple(numpy.flatnonzero(a & ~b).tolist()),
                "only_second_removes": tuple(numpy.flatnonzero(b & ~a).tolist()),
            }
        )
    return pd.DataFrame(rows)


def head_classes(first: PruningPlan, second: PruningPlan) -> pd.DataFrame:
    """One row a head: columns block, head, and which of `CLASSES` it is in. Raises InputError."""
    names, parts = numpy.array(CLASSES), []
    for block, kind, a, b in _pairs(first, second):
        if kind == "head":
            which = numpy.select([~a & ~b, a & b, a & ~b], [0, 1, 2], 3)
            heads = numpy.arange(len(a))
            parts.append(pd.DataFrame({"block": block, "head": heads, "class": names[which]}))
    return pd.concat(parts, ignore_index=True)


def _pairs(
    first: PruningPlan, second: PruningPlan
) -> Iterator[tuple[int, str, numpy.ndarray, numpy.ndarray]]:
    """Block, kind, and what each plan removes there."""
    _check_same({"first": first.shape, "second": second.shape})
    both = zip(removed_masks(first), removed_masks(second), strict=True)
    for block, (a, b) in enumerate(both):
        for kind in UNIT_KINDS:
            yield block, kind, a[kind], b[kind]


def _check_same(shapes: Mapping) -> None:
    sizes = {(shape.model_type, shape.hidden, shape.blocks) for shape in shapes.values()}
    if len(sizes) > 1:
        raise InputError(
            "These are of models of different shapes, which cannot be compared; take the same "
            "model for all."
        )
