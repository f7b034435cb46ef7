"""What colours mean, everywhere, and the layout of every chart."""

from __future__ import annotations

import math
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
_LINEAR = 3.0
"""Values that are apart by less than this factor are drawn on a linear axis."""
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
    """``figure`` with the house's layout, named axes and a legend above it.

    ``log``: the y axis is logarithmic, where what is drawn spans enough for that.
    """
    least, most = _span(figure) if log else (1.0, 1.0)
    log, top = most >= _LINEAR * least, 40
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
    if log and most >= 100 * least:
        figure.update_yaxes(type="log", exponentformat="power", dtick=1)
    elif log:
        ticks = _ticks(least, most)
        figure.update_yaxes(type="log", tickvals=ticks, ticktext=[f"{tick:g}" for tick in ticks])
    return figure


def _span(figure: go.Figure) -> tuple[float, float]:
    """The least and the greatest of the positive values that are drawn; 1 and 1 of none."""
    names = ("y", "lowerfence", "upperfence")
    drawn = [trace.to_plotly_json().get(name) for trace in figure.data for name in names]
    values = [
        float(value)
        for of_trace in drawn
        if of_trace is not None
        for value in of_trace
        if value is not None and 0 < value < math.inf
    ]
    return (min(values), max(values)) if values else (1.0, 1.0)


def _ticks(least: float, most: float) -> list[float]:
    """1, 2 and 5 of every decade, from the last below ``least`` to the first above ``most``."""
    decades = range(math.floor(math.log10(least)) - 1, math.ceil(math.log10(most)) + 2)
    ticks = [float(f"{digit}e{decade}") for decade in decades for digit in (1, 2, 5)]
    first = max(tick for tick in ticks if tick <= least)
    last = min(tick for tick in ticks if tick >= most)
    return [tick for tick in ticks if first <= tick <= last]
