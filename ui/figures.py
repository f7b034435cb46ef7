"""Showing a chart with what it stands on, as CSV and as a page of its own; files to download."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

_SPARE = ["zoom2d", "pan2d", "select2d", "lasso2d", "zoomIn2d", "zoomOut2d", "autoScale2d"]
_CONFIG = {"displaylogo": False, "modeBarButtonsToRemove": _SPARE}
"""A chart's own buttons are those that nothing else does: they stand where its title ends."""
_MIME = {"csv": "text/csv", "html": "text/html", "json": "application/json"}


def show_chart(
    figure: Any, frame: pd.DataFrame | Callable[[], pd.DataFrame], name: str, **options: Any
) -> None:
    """Draw the plotly figure; offer ``frame`` as CSV and the figure as HTML, called ``name``.

    A large ``frame`` is given as a function, which is called when it is downloaded.
    The camera among the chart's own buttons saves it as an SVG picture. ``options``: of
    `st.plotly_chart`, for a chart that can be clicked.
    """
    config = _CONFIG | {"toImageButtonOptions": {"format": "svg", "filename": name}}
    st.plotly_chart(figure, config=config, **({"key": f"chart-{name}"} | options))
    with st.container(horizontal=True, horizontal_alignment="right"):
        download(
            "CSV",
            f"{name}.csv",
            lambda: (frame() if callable(frame) else frame).to_csv(index=False),
            key=f"csv-{name}",
            type="tertiary",
            help="The data of this chart.",
        )
        download(
            "HTML",
            f"{name}.html",
            lambda: figure.to_html(include_plotlyjs=True, config=config),
            key=f"html-{name}",
            type="tertiary",
            help="This chart as a page that needs nothing else. The camera in the chart's corner "
            "saves it as a picture.",
        )


def metric_row() -> Callable[..., Any]:
    """Draws metrics, as `st.metric` does, side by side: each as wide as it is, and in another row
    where there is no room, so that none is cut off."""
    return partial(st.container(horizontal=True, gap="medium").metric, width="content")


def download(label: str, file: str, data: Callable[[], str], **options: Any) -> None:
    """A button for a file, whose text is made when it is pressed. ``options``: of
    `st.download_button`."""
    options |= {"mime": _MIME[file.rpartition(".")[2]], "icon": ":material/download:"}
    st.download_button(label, data, file, on_click="ignore", **options)
