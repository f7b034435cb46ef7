"""Scores, plans and reconstruction errors as data frames."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict

import numpy
import pandas as pd

from ..criteria import Scores
from ..evaluation.reconstruction import ReconstructionErrors
from ..pruning.plan import PruningPlan
from ..recovery.training import Step

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


def extreme_scores(
    scores: Scores, plan: PruningPlan, kind: str, *, count: int = 20
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The rows of the ``count`` largest and of the ``count`` smallest scores of a kind, of all
    blocks, in order: columns block, index, score, kept.

    The same as from `scores_frame`, without building it: a large model has 350,000 channels.
    """
    field = dict(zip(KINDS, ("heads", "kv_groups", "ffn"), strict=True))[kind]
    values = [getattr(block, field).numpy() for block in scores.blocks]
    starts = numpy.cumsum([0, *map(len, values)])
    flat = numpy.concatenate(values)
    count = min(count, len(flat))
    cuts = sorted({count - 1, len(flat) - count} - {-1, len(flat)})
    order = numpy.argpartition(flat, cuts) if count else numpy.arange(0)
    frames = []
    for chosen, ascending in ((order[len(order) - count :], False), (order[:count], True)):
        blocks = numpy.searchsorted(starts, chosen, side="right") - 1
        columns = {"block": blocks, "index": chosen - starts[blocks], "score": flat[chosen]}
        frame = pd.DataFrame(columns).sort_values("score", ascending=ascending, kind="stable")
        keeps = {block: _kept(scores, plan, block)[kind] for block in set(blocks.tolist())}
        pairs = zip(frame["block"], frame["index"], strict=True)
        frames.append(frame.assign(kept=[index in keeps[block] for block, index in pairs]))
    return frames[0], frames[1]


def summary_frame(scores: Scores, plan: PruningPlan | None = None) -> pd.DataFrame:
    """One row a block: quartiles of the channel scores, range of the head scores, and with a
    plan how many heads and channels it removes."""
    rows = []
    for number, block in enumerate(scores.blocks):
        values = block.ffn if len(block.ffn) else block.ffn.new_tensor([float("nan")])
        quartiles = values.quantile(values.new_tensor([0, 0.25, 0.5, 0.75, 1])).tolist()
        row = {"block": number}
        row |= dict(
            zip(("ffn_min", "ffn_q1", "ffn_median", "ffn_q3", "ffn_max"), quartiles, strict=True)
        )
        heads = block.heads.tolist() or [float("nan")]  # an attention that is gone has none
        row |= {"head_min": min(heads), "head_max": max(heads)}
        if plan:
            was, kept = scores.shape.blocks[number], plan.blocks[number]
            row |= {
                "heads_removed": was.heads - len(kept.heads),
                "channels_removed": was.channels - len(kept.channels),
            }
        rows.append(row)
    return pd.DataFrame(rows)


def history_frame(history: Sequence[Step]) -> pd.DataFrame:
    """One row an optimiser step of a recovery: columns step, loss, learning_rate, validation."""
    frame = pd.DataFrame([asdict(step) for step in history], columns=list(Step.__annotations__))
    return frame.astype({name: "float64" for name in frame.columns if name != "step"})


ERRORS = ("accumulated", "local", "accumulated_relative", "local_relative")


def reconstruction_frame(
    errors: Mapping[str, ReconstructionErrors],
    bounds: Mapping[str, Sequence[float]] | None = None,
) -> pd.DataFrame:
    """One row a block of every model: columns block, model and `ERRORS`.

    With ``bounds`` (by model, one number a block) also ``bound``; nan for a model that has none,
    a compensated one for instance.
    """
    columns = ["block", "model", *ERRORS, *(["bound"] if bounds is not None else [])]
    parts = []
    for model, of_model in errors.items():
        values = {"block": range(len(of_model.local)), "model": model}
        values |= {name: getattr(of_model, name) for name in ERRORS}
        if bounds is not None:
            values["bound"] = bounds.get(model, float("nan"))
        parts.append(pd.DataFrame(values, columns=columns))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
