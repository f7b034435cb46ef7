"""Curves as frames and pictures: what each sublayer loses at every width, and a whole model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..criteria.base import BlockCurves
from ..criteria.curves import Curves, relative
from ..models.shapes import BlockShape
from ..pruning.plan import BlockPlan
from ..specs import UNITS
from .style import KEPT, REMOVED, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

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


def tradeoff_frame(points: Sequence[tuple[float, float]], dense: float) -> pd.DataFrame:
    """A row a point of `budget.tradeoff`: columns cost, share (of what the ``dense`` model costs)
    and loss."""
    rows = [{"cost": cost, "share": cost / dense, "loss": loss} for cost, loss in points]
    return pd.DataFrame(rows, columns=["cost", "share", "loss"])


def tradeoff_chart(frame: pd.DataFrame, share: float, loss: float, title: str) -> go.Figure:
    """The predicted loss against the share of the cost that stays, and where the plan of ``share``
    and ``loss`` sits."""
    import plotly.graph_objects as go

    figure = go.Figure()
    figure.add_scatter(
        x=frame["share"],
        y=frame["loss"],
        mode="lines+markers",
        name="the best plan of each size",
        line={"color": KEPT, "width": 2},
        marker={"size": 5},
        hovertemplate="%{x:.0%} stays: %{y:.3f} nats<extra></extra>",
    )
    figure.add_scatter(
        x=[share],
        y=[loss],
        mode="markers",
        name="this plan",
        marker={"color": REMOVED, "size": 12, "symbol": "diamond"},
        hovertemplate="this plan, %{x:.1%} stays: %{y:.3f} nats<extra></extra>",
    )
    figure = styled(figure, "Share of the original that stays", "Predicted loss, nats", title=title)
    return figure.update_xaxes(tickformat=".0%", autorange="reversed")


def width_curves_chart(
    block: BlockCurves, keep: BlockPlan, was: BlockShape, unit: str
) -> go.Figure:
    """What the attention and the FFN of one block lose at every width, and where a plan that keeps
    ``keep`` of it sits."""
    import plotly.graph_objects as go

    heads = block.heads if unit == UNITS.QUERY_HEAD else block.kv_groups
    figure = go.Figure()
    for name, curve, width, left, color in (
        ("FFN", block.ffn, was.channels, len(keep.channels), KEPT),
        ("attention", heads, was.heads, len(keep.heads), REMOVED),
    ):
        rounds = len(curve.order)
        if not rounds:
            continue
        shares = [1 - gone / rounds for gone in range(rounds + 1)]
        errors = curve.errors.tolist()
        figure.add_scatter(
            x=shares,
            y=errors,
            mode="lines" if rounds > 30 else "lines+markers",
            name=name,
            line={"color": color, "width": 2},
            hovertemplate="%{x:.0%} of the " + name + " stays: %{y:.4f} nats<extra></extra>",
        )
        figure.add_scatter(
            x=[left / width],
            y=[errors[round((1 - left / width) * rounds)]],
            mode="markers",
            showlegend=False,
            marker={"color": color, "size": 12, "symbol": "diamond"},
            hovertemplate="this plan keeps %{x:.0%} of the " + name + "<extra></extra>",
        )
    title = "What the block loses at every width"
    figure = styled(figure, "Share that stays", "Predicted loss, nats", title=title)
    return figure.update_xaxes(tickformat=".0%", autorange="reversed")
