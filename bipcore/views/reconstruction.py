"""Charts of reconstruction errors. Pure functions: data in, plotly figure out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pandas as pd

from ..evaluation.reconstruction import ReconstructionErrors
from .style import criterion_style, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

_NAMES = {
    "accumulated": "Accumulated: each model on its own hidden states",
    "local": "Local: every block on the dense hidden states",
    "accumulated_relative": "Accumulated, relative to mean |f(X)|",
    "local_relative": "Local, relative to mean |f(X)|",
}


def error_by_block(frame: pd.DataFrame, kind: str) -> go.Figure:
    """Figure 3 of the paper: mean reconstruction error by block, a line a model.

    ``frame`` is a `reconstruction_frame`, ``kind`` one of its error columns.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    relative = kind.endswith("_relative")
    for name, rows in frame.groupby("model", sort=False):
        style = criterion_style(str(name))
        figure.add_scatter(
            x=rows["block"],
            y=rows[kind],
            name=str(name),
            mode="lines+markers",
            line={"color": style.color, "dash": style.dash},
            marker={"symbol": style.symbol, "size": 6},
            hovertemplate=f"{name}, block %{{x}}: %{{y:{'.2%' if relative else '.5g'}}}"
            "<extra></extra>",
        )
    y = "Error / mean |f(X)|" if relative else "Mean |f(X) − f̂(X̂)|, hidden-state units"
    styled(figure, "Block", y, title=_NAMES[kind])
    if relative:
        figure.update_yaxes(tickformat=".0%")
    values = frame[kind]
    if not relative and (values > 0).all() and values.max() > 100 * values.min():
        figure.update_yaxes(type="log", title=f"{y} (log scale)")
    return figure


def bound_against_error(frame: pd.DataFrame) -> go.Figure:
    """Each block of each model: the LLM-BIP bound of what was cut against the local error.

    Below the diagonal the bound holds; the further below, the looser it is.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    shown = frame[(frame["bound"] > 0) & (frame["local"] > 0)]
    for name, rows in shown.groupby("model", sort=False):
        style = criterion_style(str(name))
        held = int((rows["bound"] >= rows["local"]).sum())
        figure.add_scatter(
            x=rows["bound"],
            y=rows["local"],
            customdata=rows["block"],
            name=f"{name}: holds in {held} of {len(rows)} blocks",
            mode="markers",
            marker={"color": style.color, "symbol": style.symbol, "size": 8},
            hovertemplate=f"{name}, block %{{customdata}}: bound %{{x:.4g}}, error %{{y:.4g}}"
            "<extra></extra>",
        )
    if len(shown):
        ends = [shown[["bound", "local"]].min().min(), shown[["bound", "local"]].max().max()]
        figure.add_scatter(
            x=ends,
            y=ends,
            mode="lines",
            name="error = bound",
            line={"color": "#444", "dash": "dot", "width": 1},
            hoverinfo="skip",
        )
    styled(
        figure,
        "LLM-BIP upper bound of what was cut, hidden-state units (log scale)",
        "Local error measured, hidden-state units (log scale)",
        title="How tight the bound is",
    )
    both = {"type": "log", "exponentformat": "power", "dtick": 1}
    return figure.update_xaxes(both).update_yaxes(both)


ERRORS = ("accumulated", "local", "accumulated_relative", "local_relative")


def reconstruction_frame(
    errors: Mapping[str, ReconstructionErrors],
    bounds: Mapping[str, Sequence[float]] | None = None,
) -> pd.DataFrame:
    """One row a block of every model: columns block, model and `ERRORS`.

    With ``bounds`` (by model, one number a block) also ``bound``; nan for a model that has none,
    a compensated one for instance.
    """
    columns = ["block", "model", *ERRORS, *(["bound"] if bounds is not None else [])]
    parts = []
    for model, of_model in errors.items():
        values = {"block": range(len(of_model.local)), "model": model}
        values |= {name: getattr(of_model, name) for name in ERRORS}
        if bounds is not None:
            values["bound"] = bounds.get(model, float("nan"))
        parts.append(pd.DataFrame(values, columns=columns))
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=columns)
