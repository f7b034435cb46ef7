"""Charts of how far scores and plans depend on the calibration set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from .plans import UNIT_NAMES
from .style import KEPT, REMOVED, SCALE, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LINES = (
    ("rank_correlation", "rank correlation, mean", KEPT, "solid", "circle"),
    ("least_correlation", "rank correlation, least", KEPT, "dot", "circle-open"),
    ("always_share", "go under all, of those that go under any", REMOVED, "solid", "square"),
)


def stability_chart(frame: pd.DataFrame, kind: str) -> go.Figure:
    """The figures of `stability` of a ``kind`` of unit, block by block."""
    import plotly.graph_objects as go

    rows = frame[frame["kind"] == kind]
    gone = rows["always"] + rows["sometimes"]
    rows = rows.assign(always_share=rows["always"] / gone.where(gone > 0))
    figure = go.Figure()
    for column, name, color, dash, symbol in _LINES:
        figure.add_scatter(
            x=rows["block"],
            y=rows[column],
            customdata=rows[["always", "sometimes", "never"]],
            mode="lines+markers",
            name=name,
            line={"color": color, "dash": dash},
            marker={"symbol": symbol, "size": 6},
            hovertemplate=f"block %{{x}}, {name}: %{{y:.3f}}<br>%{{customdata[0]}} go under all, "
            "%{customdata[1]} under some, %{customdata[2]} under none<extra></extra>",
        )
    title = f"The {UNIT_NAMES[kind]} under all calibration sets"
    styled(figure, "Block", "Correlation, or share", title=title)
    least = min(0.0, rows["least_correlation"].min())
    return figure.update_yaxes(range=[least - 0.03, 1.03])


def removal_map(shares: pd.DataFrame) -> go.Figure:
    """Blocks × heads: the share of the calibration sets under which each head goes, by the frame of
    `removal_frame`."""
    import plotly.graph_objects as go

    square = shares.pivot(index="unit", columns="block", values="share")
    figure = go.Figure(
        go.Heatmap(
            x=square.columns,
            y=square.index,
            z=square.to_numpy(),
            zmin=0,
            zmax=1,
            colorscale=SCALE,
            colorbar={"title": "goes<br>under", "tickformat": ".0%"},
            hovertemplate="block %{x}, head %{y}: goes under %{z:.0%} of the sets<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    styled(figure, "Block", "Query head", title="Query heads that go")
    return figure.update_layout(showlegend=False)
