"""Scores and plans as data frames: one row a head, KV group or channel."""

import pandas as pd

from .criteria import Scores
from .plan import PruningPlan

KINDS = ("head", "kv_group", "channel")


def scores_frame(scores: Scores, plan: PruningPlan | None = None) -> pd.DataFrame:
    """Columns block, kind (of `KINDS`), index, score, and with a plan ``kept``."""
    parts = []
    for number, block in enumerate(scores.blocks):
        keeps = _kept(scores, plan, number) if plan else {}
        for kind, values in zip(KINDS, (block.heads, block.kv_groups, block.ffn), strict=True):
            columns = {
                "block": number,
                "kind": kind,
                "index": range(len(values)),
                "score": values.numpy(),
            }
            if plan:
                columns["kept"] = [index in keeps[kind] for index in range(len(values))]
            parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _kept(scores: Scores, plan: PruningPlan, number: int) -> dict[str, set[int]]:
    was, block = scores.shape.blocks[number], plan.blocks[number]
    return {
        "head": set(block.heads),
        "kv_group": {head // was.group for head in block.heads},
        "channel": set(block.channels),
    }


def summary_frame(scores: Scores, plan: PruningPlan | None = None) -> pd.DataFrame:
    """One row a block: quartiles of the channel scores, range of the head scores, and with a
    plan how many heads and channels it removes."""
    rows = []
    for number, block in enumerate(scores.blocks):
        quartiles = block.ffn.quantile(block.ffn.new_tensor([0, 0.25, 0.5, 0.75, 1])).tolist()
        row = {"block": number}
        row |= dict(
            zip(("ffn_min", "ffn_q1", "ffn_median", "ffn_q3", "ffn_max"), quartiles, strict=True)
        )
        row |= {"head_min": float(block.heads.min()), "head_max": float(block.heads.max())}
        if plan:
            was, kept = scores.shape.blocks[number], plan.blocks[number]
            row |= {
                "heads_removed": was.heads - len(kept.heads),
                "channels_removed": was.channels - len(kept.channels),
            }
        rows.append(row)
    return pd.DataFrame(rows)
