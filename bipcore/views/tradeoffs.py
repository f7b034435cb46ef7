"""Quality against cost as a chart and a table: groups of points in, picture out. Pure functions."""

from __future__ import annotations

from textwrap import wrap
from typing import TYPE_CHECKING

import pandas as pd

from ..criteria import CRITERIA
from ..studies.points import DENSE
from ..studies.tradeoffs import Group, Measured, frontier
from .style import DENSE_COLOR, RECOVERED_COLOR, criterion_style, styled, words
from .sweep import COSTS

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LINE = 60
_DECADE = 10


def costs_of(group: Group) -> dict[str, str]:
    """The costs that at least two points of a group know, and what they are called."""
    known = {cost: sum(cost in point.costs for point in group.points) for cost in COSTS}
    return {cost: COSTS[cost][0] for cost, count in known.items() if count > 1}


def tradeoff_frame(group: Group, cost: str) -> pd.DataFrame:
    """One row a point that knows the cost: what it is, its cost and its figure, and whether it is
    on the frontier; the dense model first."""
    best = frontier(group.points, cost, group.metric)
    rows = [
        {
            "settings": point.words,
            cost: point.costs[cost],
            group.metric.name: point.figure,
            "on_frontier": point in best,
        }
        for point in group.points
        if cost in point.costs
    ]
    return pd.DataFrame(rows, columns=["settings", cost, group.metric.name, "on_frontier"])


def tradeoff_chart(group: Group, cost: str) -> go.Figure:
    """The figure of each point against its cost, in the colour of its criterion, and the frontier:
    the points that nothing beats in both."""
    import plotly.graph_objects as go

    title, factor, _ = COSTS[cost]
    figure, best = go.Figure(), frontier(group.points, cost, group.metric)
    for name, points in _lines(group, cost).items():
        figure.add_scatter(**_points(name, points, group, cost))
    figure.add_scatter(
        x=[point.costs[cost] * factor for point in best],
        y=[point.figure for point in best],
        mode="lines",
        line={"color": DENSE_COLOR, "width": 1.5, "dash": "dot", "shape": "hv"},
        name="frontier",
        hoverinfo="skip",
    )
    seq_len = {point.costs["seq_len"] for point in group.points if "seq_len" in point.costs}
    if cost != "parameters" and len(seq_len) == 1:
        title = f"{title} ({next(iter(seq_len)):.0f} tokens)"
    drawn = [point.figure for point in group.points if cost in point.costs]
    wide = min(drawn) > 0 and max(drawn) / min(drawn) > _DECADE
    figure = styled(figure, title, group.metric.heading, log=wide)
    figure.update_layout(height=440, margin_t=70)
    return figure


def _lines(group: Group, cost: str) -> dict[str, list[Measured]]:
    """The points by what they are in the legend: the dense model first."""
    found: dict[str, list[Measured]] = {}
    for point in group.points:
        if cost in point.costs:
            title = CRITERIA[point.criterion].title if point.criterion in CRITERIA else None
            name = f"{title or point.criterion}{', recovered' if point.recovered else ''}"
            found.setdefault(name, []).append(point)
    return found


def _points(name: str, points: list[Measured], group: Group, cost: str) -> dict:
    """The scatter's settings for points of one look."""
    title, factor, form = COSTS[cost]
    first, style = points[0], criterion_style(points[0].criterion)
    size = 14 if first.criterion == DENSE else 10
    marker = {"color": style.color, "symbol": style.symbol, "size": size}
    if first.recovered:
        marker["line"] = {"color": RECOVERED_COLOR, "width": 3}
    decimals = group.metric.decimals
    return {
        "x": [point.costs[cost] * factor for point in points],
        "y": [point.figure for point in points],
        "mode": "markers",
        "name": words(name),
        "marker": marker,
        "text": ["<br>".join(wrap(words(point.words), _LINE)) for point in points],
        "hovertemplate": f"<b>{words(group.metric.title)} %{{y:,.{decimals}f}}</b>, "
        f"{title} %{{x:{form}}}<br>%{{text}}<extra></extra>",
    }
