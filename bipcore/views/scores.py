"""Scores and plans as charts and as data frames. Pure functions."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy
import pandas as pd
import torch
from torch import Tensor

from ..criteria import Scores
from ..pruning.plan import PruningPlan
from .style import KEPT, REMOVED, SCALE, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

_BARS = 60


def channel_distributions(scores: Scores, plan: PruningPlan) -> go.Figure:
    """A box of the FFN channel scores of every block, and the score that separates kept from
    removed ones."""
    import plotly.graph_objects as go

    blocks, cuts = list(range(len(scores.blocks))), []
    quantiles = []
    for block, keep in zip(scores.blocks, plan.blocks, strict=True):
        points = (0.01, 0.25, 0.5, 0.75, 0.99)
        values = block.ffn.numpy()
        quantiles.append(numpy.quantile(values, points).tolist() if len(values) else [None] * 5)
        removed = _split(block.ffn, keep.channels)[1]
        cuts.append(float(removed.max()) if len(removed) else None)
    low, q1, median, q3, high = zip(*quantiles, strict=True)
    figure = go.Figure(
        go.Box(
            x=blocks,
            lowerfence=low,
            q1=q1,
            median=median,
            q3=q3,
            upperfence=high,
            name="channel scores (1 %, quartiles, 99 %)",
            marker_color=KEPT,
            line_width=1,
        )
    )
    figure.add_scatter(
        x=blocks,
        y=cuts,
        mode="markers",
        name="cut: channels below are removed",
        marker={"color": REMOVED, "symbol": "line-ew-open", "size": 12, "line_width": 3},
        hovertemplate="block %{x}: removed up to %{y:.4g}<extra></extra>",
    )
    return styled(
        figure,
        "Block",
        "FFN channel score",
        title="FFN channel scores, by block",
        log=_positive(low),
    )


def head_distributions(scores: Scores, plan: PruningPlan) -> go.Figure:
    """Every head's score, by block, kept and removed ones apart."""
    import plotly.graph_objects as go

    figure = go.Figure()
    groups: dict[bool, list[tuple[int, int, float]]] = {True: [], False: []}
    for number, (block, keep) in enumerate(zip(scores.blocks, plan.blocks, strict=True)):
        kept = set(keep.heads)
        for head, value in enumerate(block.heads.tolist()):
            groups[head in kept].append((number, head, value))
    for is_kept, color, symbol in ((True, KEPT, "circle"), (False, REMOVED, "x")):
        points = groups[is_kept]
        figure.add_scatter(
            x=[point[0] for point in points],
            y=[point[2] for point in points],
            customdata=[point[1] for point in points],
            mode="markers",
            name=f"{'kept' if is_kept else 'removed'} heads ({len(points)})",
            marker={"color": color, "symbol": symbol, "size": 8},
            hovertemplate="block %{x}, head %{customdata}: %{y:.4g}<extra></extra>",
        )
    values = [point[2] for points in groups.values() for point in points]
    return styled(
        figure,
        "Block",
        "Head score",
        title="Attention head scores, by block",
        log=_positive(values),
    )


def head_map(scores: Scores, plan: PruningPlan) -> go.Figure:
    """Blocks × heads: each head's share of its block's score; removed heads carry a cross."""
    import plotly.graph_objects as go

    shares, removed = [], []
    for number, (block, keep) in enumerate(zip(scores.blocks, plan.blocks, strict=True)):
        total = float(block.heads.sum())
        shares.append([v / total if total else 0 for v in block.heads.tolist()])
        kept = set(keep.heads)
        removed += [(number, head) for head in range(len(block.heads)) if head not in kept]
    figure = go.Figure(
        go.Heatmap(
            z=list(zip_longest(*shares)),
            colorscale=SCALE,
            colorbar={"title": "share of<br>the block", "tickformat": ".0%"},
            hovertemplate="block %{x}, head %{y}: %{z:.1%} of the block<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    figure.add_scatter(
        x=[block for block, _ in removed],
        y=[head for _, head in removed],
        mode="markers",
        name=f"removed heads ({len(removed)})",
        showlegend=True,
        marker={"color": REMOVED, "symbol": "x", "size": 9},
        hovertemplate="block %{x}, head %{y}: removed<extra></extra>",
    )
    shape = scores.shape.blocks[0]
    if 1 < shape.group < shape.heads and len(set(scores.shape.blocks)) == 1:
        for edge in range(shape.group, shape.heads, shape.group):
            figure.add_hline(y=edge - 0.5, line={"color": "#444", "width": 1, "dash": "dot"})
    return styled(figure, "Block", "Query head", title="Share of its block's head scores")


def channel_histogram(scores: Scores, plan: PruningPlan, block: int) -> go.Figure:
    """How the channel scores of one block are spread, kept and removed ones in their colours."""
    import plotly.graph_objects as go

    values = scores.blocks[block].ffn
    log = bool((values > 0).all())
    values = values.log10() if log else values
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 0.0)
    step = (high - low) / _BARS or 1.0
    kept, removed = _split(values, plan.blocks[block].channels)
    figure = go.Figure()
    for chosen, name, color in ((kept, "kept", KEPT), (removed, "removed", REMOVED)):
        figure.add_histogram(
            x=chosen.numpy(),
            xbins={"start": low, "end": high + step, "size": step},
            name=f"{name} channels ({len(chosen)})",
            marker_color=color,
            hovertemplate="%{y} channels at %{x:.3f}<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.02)
    unit = "log₁₀ of the channel score" if log else "Channel score"
    return styled(figure, unit, "Channels", title=f"FFN channel scores of block {block}")


def _split(values: Tensor, kept: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The values at the indices ``kept``, and the others."""
    mask = values.new_zeros(len(values)).bool()
    mask[torch.from_numpy(numpy.fromiter(kept, numpy.int64, len(kept)))] = True
    return values[mask], values[~mask]


def _positive(values) -> bool:
    """Whether all are, but for None: what a block without channels has."""
    return all(value > 0 for value in values if value is not None)


SCORED = ("head", "kv_group", "channel")


def scores_frame(scores: Scores, plan: PruningPlan | None = None) -> pd.DataFrame:
    """Columns block, kind (of `SCORED`), index, score, and with a plan ``kept``."""
    parts = []
    for number, block in enumerate(scores.blocks):
        keeps = _kept(scores, plan, number) if plan else {}
        for kind, values in zip(SCORED, (block.heads, block.kv_groups, block.ffn), strict=True):
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
    field = dict(zip(SCORED, ("heads", "kv_groups", "ffn"), strict=True))[kind]
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
