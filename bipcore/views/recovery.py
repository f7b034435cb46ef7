"""Charts of a recovery while it trains and after: data frame in, plotly figure out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

from ..recovery.training import Step
from .style import KEPT, RECOVERED_COLOR, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go


def loss_chart(history: pd.DataFrame, chosen: int | None = None) -> go.Figure:
    """The loss of the text against the optimiser step: of every batch, where it is what training
    makes smaller, and of the held-out samples.

    ``history`` is a `history_frame`; ``chosen`` marks the step that was kept.
    """
    batches = "" if history["validation_kl"].notna().any() else "loss"
    unit = "Loss, nats a token"
    return _curves(history, batches, "validation", chosen, unit, "Loss of the text")


def divergence_chart(history: pd.DataFrame, chosen: int | None = None) -> go.Figure:
    """The divergence from the dense model against the optimiser step, as `loss_chart`."""
    title, unit = "Divergence from the dense model", "KL divergence, nats a token"
    return _curves(history, "loss", "validation_kl", chosen, unit, title)


def _curves(
    history: pd.DataFrame, batch: str, held_out: str, chosen: int | None, unit: str, title: str
) -> go.Figure:
    """Two columns of a `history_frame`; none of the batches where ``batch`` is empty."""
    import plotly.graph_objects as go

    figure = go.Figure()
    looks = history.dropna(subset=held_out)
    if batch:
        batches = history.dropna(subset=batch)
        figure.add_scatter(
            x=batches["step"],
            y=batches[batch],
            mode="lines",
            name="batch",
            line={"color": KEPT, "width": 1.5},
            hovertemplate="step %{x}: %{y:.3f}<extra>batch</extra>",
        )
    if len(looks):
        figure.add_scatter(
            x=looks["step"],
            y=looks[held_out],
            mode="lines+markers",
            name="held-out samples",
            line={"color": RECOVERED_COLOR, "width": 2.5},
            hovertemplate="step %{x}: %{y:.3f}<extra>held-out samples</extra>",
        )
    if chosen is not None and len(history) and chosen < history["step"].max():
        figure.add_vline(x=chosen, line={"color": "#444", "dash": "dot"})
    return styled(figure, "Optimiser step", unit, title=title)


def rate_chart(history: pd.DataFrame) -> go.Figure:
    """The learning rate against the optimiser step."""
    import plotly.graph_objects as go

    rows = history.dropna(subset="learning_rate")
    figure = go.Figure()
    figure.add_scatter(
        x=rows["step"],
        y=rows["learning_rate"],
        mode="lines",
        name="learning rate",
        line={"color": KEPT, "width": 2},
        hovertemplate="step %{x}: %{y:.2e}<extra></extra>",
    )
    figure = styled(figure, "Optimiser step", "Learning rate", title="Learning rate")
    figure.update_yaxes(exponentformat="power", rangemode="tozero")
    return figure


def history_frame(history: Sequence[Step]) -> pd.DataFrame:
    """One row an optimiser step of a recovery: columns step, loss, learning_rate, validation,
    validation_kl."""
    frame = pd.DataFrame([asdict(step) for step in history], columns=list(Step.__annotations__))
    return frame.astype({name: "float64" for name in frame.columns if name != "step"})
