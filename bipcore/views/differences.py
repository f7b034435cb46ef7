"""Where two models differ on a text: the text, its tokens coloured, and the worst of them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

import pandas as pd

from .style import KEPT, REMOVED, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from ..evaluation.depth import Depth
    from ..evaluation.differences import Differences, Predictions

FULL = 4.0
"""The divergence, in nats, from which on a token has the whole colour."""


def coloured_text(
    found: Differences, pieces: Sequence[str], names: Sequence[str], vocabulary: Sequence[str]
) -> str:
    """HTML of the text in ``pieces``, one a token: the stronger its colour, the further apart the
    models are on what comes after it. Under the pointer it says what the models, called ``names``,
    find likeliest there; ``vocabulary`` are the texts of those tokens (see `likeliest_ids`)."""
    said = iter(vocabulary)
    spans = []
    for place, piece in enumerate(pieces):
        lines = [f"After this: {float(found.kl[place]):.2f} nats apart"]
        for name, one in zip(names, (found.dense, found.other), strict=True):
            lines.append(f"{name}: {_likeliest(one, place, said)}")
        rank, before = int(found.other.rank[place]), int(found.dense.rank[place])
        if rank:
            lines.append(f"What follows is number {before} of {names[0]}, {rank} of {names[1]}")
        share = min(float(found.kl[place]) / FULL, 1.0)
        style = f"background-color:{REMOVED}{round(share * 200):02x};border-radius:3px"
        title = escape("\n".join(lines)).replace("\n", "&#10;")
        spans.append(f'<span style="{style}" title="{title}">{escape(piece)}</span>')
    style = "white-space:pre-wrap;overflow-wrap:anywhere;line-height:1.9;font-size:1.05rem"
    return f'<div style="{style}">{"".join(spans)}</div>'


def likeliest_ids(found: Differences) -> list[int]:
    """The tokens that either model finds likeliest, in the order in which they are said."""
    both = zip(found.dense.likeliest.tolist(), found.other.likeliest.tolist(), strict=True)
    return [token for one, other in both for token in (*one, *other)]


def _likeliest(one: Predictions, place: int, said) -> str:
    probabilities = one.probabilities[place].tolist()
    return ", ".join(f"{next(said)!r} {probability:.0%}" for probability in probabilities)


def worst_frame(rows: Sequence[dict[str, Any]], names: Sequence[str]) -> pd.DataFrame:
    """The rows of `evaluation.differences.rows` as a table for people."""

    def likeliest(said: dict[str, Any]) -> str:
        first = said["likeliest"][0]
        return f"{first['token']!r} {first['probability']:.0%}"

    return pd.DataFrame(
        {
            "Position": [row["position"] for row in rows],
            "After": [(row["before"] + row["token"])[-40:] for row in rows],
            "Follows": [row["next"] if row["next"] is not None else "-" for row in rows],
            "Divergence, nats": [row["kl"] for row in rows],
            names[0]: [likeliest(row["dense"]) for row in rows],
            names[1]: [likeliest(row["other"]) for row in rows],
            "Rank of what follows": [
                f"{row['dense']['rank_of_next']} → {row['other']['rank_of_next']}"
                if row["next"] is not None
                else "-"
                for row in rows
            ],
        }
    )


def depth_frame(depth: Depth) -> pd.DataFrame:
    """A row a block: columns block, distance (1 − cosine of the hidden states) and divergence (of
    the logit lens, nats a token)."""
    blocks = range(len(depth.distance))
    return pd.DataFrame(
        {"block": blocks, "distance": depth.distance, "divergence": depth.divergence}
    )


def depth_chart(frame: pd.DataFrame, column: str) -> go.Figure:
    """One column of a `depth_frame` against the block."""
    import plotly.graph_objects as go

    said = {
        "distance": ("1 − cosine", "Hidden states: distance from the original's", KEPT),
        "divergence": ("KL, nats a token", "Logit lens: divergence from the original's", REMOVED),
    }
    unit, title, color = said[column]
    figure = go.Figure()
    figure.add_scatter(
        x=frame["block"],
        y=frame[column],
        mode="lines+markers",
        line={"color": color, "width": 2},
        hovertemplate="after block %{x}: %{y:.4f}<extra></extra>",
    )
    return styled(figure, "After block", unit, title=title).update_yaxes(rangemode="tozero")
