"""Charts of zero-shot tasks: data frame in, plotly figure out."""

import pandas as pd
import plotly.graph_objects as go

from .scores import styled
from .style import DENSE, PRUNED, RECOVERED

COLORS = {"dense": DENSE, "pruned": PRUNED, "recovered": RECOVERED}


def accuracy_chart(frame: pd.DataFrame, *, title: str = "Accuracy by task") -> go.Figure:
    """A bar for every task and state, with one standard error up and down.

    ``frame`` is a `zero_shot_frames.results_frame`; of each task its metric that counts is drawn.
    """
    shown = frame[frame["counts"]]
    figure = go.Figure()
    for state, rows in shown.groupby("state", sort=False):
        color = COLORS.get(str(state), DENSE)
        errors = 100 * rows["stderr"].astype(float)
        data = [
            [metric, f" ± {error:.1f}" if error == error else "", samples, _of(total)]
            for metric, error, samples, total in zip(
                rows["metric"], errors, rows["samples"], rows["total"], strict=True
            )
        ]
        figure.add_bar(
            x=rows["task"],
            y=100 * rows["value"],
            name=str(state),
            marker_color=color,
            error_y={"array": errors.fillna(0.0), "thickness": 1.5, "color": "#333"},
            customdata=data,
            hovertemplate=f"%{{x}}, {state}: %{{customdata[0]}} %{{y:.1f}} %%{{customdata[1]}}<br>"
            "%{customdata[2]:,}%{customdata[3]} rows<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.25)
    figure = styled(figure, "Task", "Accuracy, %", title=title)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _of(total: float | None) -> str:
    return "" if total is None or total != total else f" of {int(total):,}"
