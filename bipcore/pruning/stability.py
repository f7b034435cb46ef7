"""How far scores and plans depend on the calibration set: one criterion under several of them.

Pure functions: scores and plans in, data frames out.
"""

from collections.abc import Mapping

import numpy
import pandas as pd

from ..criteria import Scores
from ..errors import InputError
from .comparison import UNIT_KINDS, rank_correlations, removed_masks
from .plan import PruningPlan


def stability(made: Mapping[str, tuple[Scores, PruningPlan]]) -> pd.DataFrame:
    """How alike the scores and the plans of several calibration sets are, block by block.

    One row for each kind (of `UNIT_KINDS`) and block: columns kind, block, ``units`` there are,
    how many of them ``always`` go, under every set, ``sometimes``, or ``never``; and of the sets'
    scores within the block the mean and the least of Spearman's rank correlation over all pairs,
    ``rank_correlation`` and ``least_correlation``, nan where there is none. Raises InputError for
    fewer than two sets, and for scores of models of different shapes.
    """
    gone = removals(made)
    between = rank_correlations({name: scores for name, (scores, _) in made.items()})
    ranks = between.groupby(["kind", "block"])["rank_correlation"].agg(["mean", "min"])
    rows = []
    for kind in UNIT_KINDS:
        for block, times in enumerate(gone[kind]):
            always, never = int((times == len(made)).sum()), int((times == 0).sum())
            sometimes = len(times) - always - never
            found = ranks.loc[(kind, block)]
            rows.append((kind, block, len(times), always, sometimes, never, *found))
    counts = ["units", "always", "sometimes", "never"]
    names = ["kind", "block", *counts, "rank_correlation", "least_correlation"]
    return pd.DataFrame(rows, columns=names)


def removals(
    made: Mapping[str, tuple[Scores, PruningPlan]],
) -> dict[str, list[numpy.ndarray]]:
    """By `UNIT_KINDS`, for every block: under how many of the sets each head (H,) and each channel
    (F,) goes. Raises InputError for fewer than two sets."""
    if len(made) < 2:
        raise InputError("How stable scores are takes two calibration sets or more.")
    masks = [removed_masks(plan) for _, plan in made.values()]
    return {
        kind: [sum(one[kind].astype(int) for one in block) for block in zip(*masks, strict=True)]
        for kind in UNIT_KINDS
    }


def removal_frame(made: Mapping[str, tuple[Scores, PruningPlan]], kind: str) -> pd.DataFrame:
    """A row for each block and unit of a ``kind``: columns block, unit and ``share``, that of the
    calibration sets under which it goes."""
    rows = [
        (block, unit, count / len(made))
        for block, times in enumerate(removals(made)[kind])
        for unit, count in enumerate(times.tolist())
    ]
    return pd.DataFrame(rows, columns=["block", "unit", "share"])
