"""What colours, dashes and symbols mean, everywhere.

The colours are Okabe and Ito's, which colour-blind readers can tell apart; where there are more
lines than colours, dash and symbol tell them apart as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import plotly.graph_objects as go


KEPT = "#0072B2"
REMOVED = "#D55E00"
DENSE = "#5B6770"
PRUNED = "#009E73"
RECOVERED = "#CC79A7"
SCALE = [[0, "#F2F7FB"], [0.5, "#7FB4D9"], [1, "#08406B"]]


@dataclass(frozen=True)
class Style:
    """How the line of one criterion looks in every chart."""

    color: str
    dash: str
    symbol: str


CRITERION_STYLES = {
    "llm-bip": Style("#0072B2", "solid", "circle"),
    "llm-bip-gated": Style("#0072B2", "dot", "circle-open"),
    "wanda": Style("#E69F00", "solid", "square"),
    "wanda-sp": Style("#E69F00", "dot", "square-open"),
    "flap": Style("#009E73", "solid", "diamond"),
    "llm-pruner": Style("#CC79A7", "solid", "triangle-up"),
    "importance-propagation": Style("#56B4E9", "solid", "triangle-down"),
    "blockpruner": Style("#000000", "dash", "star"),
    "magnitude": Style("#8C6D31", "solid", "x"),
    "random": Style("#7F7F7F", "dot", "cross"),
}


def criterion_style(name: str) -> Style:
    """The style of a criterion; of anything else, that of the dense model."""
    return CRITERION_STYLES.get(name, Style(DENSE, "solid", "circle"))


def styled(
    figure: go.Figure, x: str, y: str, *, log: bool = False, title: str | None = None
) -> go.Figure:
    """``figure`` with the house's layout, named axes and a legend above it."""
    top = 40
    if title:
        top = 75  # the title, and under it the legend
        place = {"x": 0, "y": 0.98, "yanchor": "top"}
        figure.update_layout(title={"text": title, "font_size": 15, **place})
    figure.update_layout(
        template="plotly_white",
        showlegend=True,
        height=340 + top,
        margin={"l": 60, "r": 20, "t": top, "b": 50},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.02, "x": 0},
        xaxis_title=x,
        yaxis_title=f"{y} (log scale)" if log else y,
    )
    if log:
        figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    return figure
