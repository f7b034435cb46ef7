"""Close-ups of a head and of a channel, as charts and as data frames. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..criteria import find_criterion
from ..errors import printable
from .style import KEPT, SCALE, styled, words

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..evaluation.closeups import HeadCloseUp, Histogram, Peak, Token
    from ..pruning.standing import Standing

_STRONGEST = 10


def seen(text: str) -> str:
    """A token's text as one sees it: blanks at its ends, line ends and the like are shown."""
    said = printable(text.replace("\n", "⏎").replace("\t", "⇥"))
    inner = said.strip(" ")
    if not inner:
        return "␣" * len(said)
    left = len(said) - len(said.lstrip(" "))
    return "␣" * left + inner + "␣" * (len(said) - left - len(inner))


def pattern_frame(found: HeadCloseUp) -> pd.DataFrame:
    """A row for each pair of positions, the first not before the second: columns position, token,
    attends_to (a position), its_token and share."""
    pattern = found.pattern.tolist()
    rows = [
        (place, found.tokens[place], other, found.tokens[other], pattern[place][other])
        for place in range(len(found.tokens))
        for other in range(place + 1)
    ]
    return pd.DataFrame(rows, columns=["position", "token", "attends_to", "its_token", "share"])


def pattern_chart(found: HeadCloseUp) -> go.Figure:
    """Who attends to whom: a row a position, a column for each that it can see."""
    import plotly.graph_objects as go

    count, pattern = len(found.tokens), found.pattern.tolist()
    labels = [f"{place} {words(seen(token))}" for place, token in enumerate(found.tokens)]
    figure = go.Figure(
        go.Heatmap(
            x=labels,
            y=labels,
            z=[
                row[: place + 1] + [None] * (count - place - 1) for place, row in enumerate(pattern)
            ],
            colorscale=SCALE,
            zmin=0,
            zmax=1,
            colorbar={"title": "share", "tickformat": ".0%"},
            hovertemplate="%{y} → %{x}: %{z:.1%}<extra></extra>",
            hoverongaps=False,
        )
    )
    styled(figure, "Attended position", "Attending position", title="Attention pattern")
    axes = {"type": "category", "showgrid": False, "tickfont_size": 10}
    if count <= _LABELLED:
        axes["tickmode"] = "linear"
    figure.update_xaxes(**axes, tickangle=-90)
    figure.update_yaxes(**axes, autorange="reversed")
    height = min(max(420, 200 + 14 * count), 900)
    margin = {"l": 110, "b": 110}
    return figure.update_layout(height=height, showlegend=False, margin=margin)


_LABELLED = 48  # so many positions all have room for their token at the axes


def strongest_frame(found: HeadCloseUp, count: int = _STRONGEST) -> pd.DataFrame:
    """The largest shares but for those of the first token: columns position, token, attends_to and
    share."""
    frame = pattern_frame(found)
    frame = frame[frame["attends_to"] > 0].nlargest(count, "share")
    columns = {name: [seen(one) for one in frame[name]] for name in ("token", "its_token")}
    places = (f"{one:,}" for one in frame["attends_to"])
    to = [f"{token} ({place})" for token, place in zip(columns["its_token"], places, strict=True)]
    frame = frame.assign(token=columns["token"], attends_to=to)
    return frame[["position", "token", "attends_to", "share"]].reset_index(drop=True)


def promoted_frame(tokens: Iterable[Token]) -> pd.DataFrame:
    """Columns token (as one sees it), id and adds."""
    rows = [(seen(one.text), one.id, one.value) for one in tokens]
    return pd.DataFrame(rows, columns=["token", "id", "adds"])


def peaks_frame(peaks: Iterable[Peak]) -> pd.DataFrame:
    """Columns activation, before, token, after, sample and position."""
    rows = [
        (one.value, seen(one.before), seen(one.token), seen(one.after), one.sample, one.position)
        for one in peaks
    ]
    columns = ["activation", "before", "token", "after", "sample", "position"]
    return pd.DataFrame(rows, columns=columns)


def histogram_frame(found: Histogram) -> pd.DataFrame:
    """A row a bar: columns from, to and positions."""
    low, high = found.edges[:-1], found.edges[1:]
    return pd.DataFrame({"from": low, "to": high, "positions": found.counts})


def histogram_chart(found: Histogram) -> go.Figure:
    """How the activations are spread; the axis of counts is logarithmic, since most are small."""
    import plotly.graph_objects as go

    width = found.edges[1] - found.edges[0]
    middles = [edge + width / 2 for edge in found.edges[:-1]]
    figure = go.Figure(
        go.Bar(
            x=middles,
            y=[count or None for count in found.counts],
            width=width,
            marker_color=KEPT,
            hovertemplate="%{y:,} positions at %{x:.3f}<extra></extra>",
        )
    )
    styled(figure, "Activation", "Positions", title="Activations", log=True)
    return figure.update_layout(showlegend=False, bargap=0)


def standings_frame(found: Sequence[Standing]) -> pd.DataFrame:
    """A row a criterion: columns criterion (its title), score, rank and of."""
    rows = [(find_criterion(one.criterion).title, one.score, one.rank, one.of) for one in found]
    return pd.DataFrame(rows, columns=["criterion", "score", "rank", "of"])
