"""Frames of curves: what each sublayer loses at every width."""

import pandas as pd

from ..criteria.curves import Curves, relative

SHARES = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
"""The shares of a sublayer's units that the short table has."""


def curves_frame(curves: Curves) -> pd.DataFrame:
    """A row for every round of every curve: block, sublayer ("heads", "kv_groups", "ffn"), the
    units that are ``gone`` and ``left``, the ``error`` that stays, and its share of all."""
    parts = []
    for index, block in enumerate(curves.blocks):
        for sublayer, curve in vars(block).items():
            rounds, sets = curve.order.shape
            gone = [step * sets for step in range(rounds + 1)]
            values = {"gone": gone, "left": gone[::-1], "error": curve.errors.tolist()}
            values |= {"relative": relative(curve.errors).tolist()}
            parts.append(pd.DataFrame({"block": index, "sublayer": sublayer, **values}))
    return pd.concat(parts, ignore_index=True)


def curves_summary(curves: Curves) -> pd.DataFrame:
    """A row a block: the share of the output that is lost with the first head of each choice gone,
    and with `SHARES` of the FFN channels."""
    rows = []
    for index, block in enumerate(curves.blocks):
        row: dict[str, float] = {"block": index}
        if len(block.heads.order):
            row[f"{block.heads.order.shape[1]} head(s)"] = float(relative(block.heads.errors)[1])
        channels = len(block.ffn.order)
        of_ffn = relative(block.ffn.errors)
        row |= {f"ffn {share:.0%}": float(of_ffn[round(share * channels)]) for share in SHARES}
        rows.append(row)
    return pd.DataFrame(rows)
