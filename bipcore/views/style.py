"""What colours mean, everywhere, and the layout of every chart."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from ..criteria import CRITERIA
from ..criteria.base import Style

if TYPE_CHECKING:
    import plotly.graph_objects as go


KEPT = "#0072B2"
REMOVED = "#D55E00"
DENSE_COLOR = "#5B6770"
PRUNED_COLOR = "#009E73"
RECOVERED_COLOR = "#CC79A7"
SCALE = [[0, "#F2F7FB"], [0.5, "#7FB4D9"], [1, "#08406B"]]


def criterion_style(name: str) -> Style:
    """The style of a criterion; of anything else, that of the dense model."""
    return CRITERIA[name].style if name in CRITERIA else Style(DENSE_COLOR)


def words(text: str) -> str:
    """A user's words for a chart, where plotly would take them for HTML and its own ``%{...}``."""
    return escape(text, quote=False).replace("%{", "%\N{WORD JOINER}{")


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
