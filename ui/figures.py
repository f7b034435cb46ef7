"""Showing a chart with what it stands on: its data as CSV, itself as a page of its own."""

from collections.abc import Callable
from typing import Any

import pandas as pd
import streamlit as st

_CONFIG = {"displaylogo": False}


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
        st.download_button(
            "CSV",
            data=lambda: (frame() if callable(frame) else frame).to_csv(index=False),
            file_name=f"{name}.csv",
            mime="text/csv",
            on_click="ignore",
            type="tertiary",
            icon=":material/download:",
            key=f"csv-{name}",
            help="The data of this chart.",
        )
        st.download_button(
            "HTML",
            data=lambda: figure.to_html(include_plotlyjs=True, config=config),
            file_name=f"{name}.html",
            mime="text/html",
            on_click="ignore",
            type="tertiary",
            icon=":material/download:",
            key=f"html-{name}",
            help="This chart as a page that needs nothing else. The camera in the chart's corner "
            "saves it as a picture.",
        )
