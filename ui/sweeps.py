"""The sweep's job, and its results while they come in."""

import re
from typing import Any

import pandas as pd
import streamlit as st

from bipcore.pipeline.pipeline import Pipeline
from bipcore.store.kinds import digest
from bipcore.studies.sweep import Point, SweepSpec, run_sweep, text_names
from bipcore.views.sweep import (
    cost_chart,
    opening,
    perplexity_chart,
    size_chart,
    sizes_of,
    sparsities_of,
    sweep_html,
)
from bipcore.views.sweep_tables import PREFIX, readable, refused, summary, sweep_frame

from .figures import show_chart
from .jobs import CANCELLED, FAILED, Job, worker
from .results import show_progress
from .settings import Settings
from .sweep_form import latest_sweeps


def show_sweep(settings: Settings, spec: SweepSpec | None, *, start: bool) -> None:
    """Start the sweep where asked; show the one in the form, else the last one of this model."""
    if start:
        _submit(spec)
    shown = spec
    if spec is None or worker().find(_job_key(spec)) is None:
        shown, _ = latest_sweeps().get(settings.model_spec, (None, {}))
    job = worker().find(_job_key(shown)) if shown else None
    if job is None:
        st.info("Nothing has been measured yet. Choose above what to compare, and press Start.")
        return
    if shown != spec:
        st.info("Below is the sweep that was started last; Start measures what is set above.")
    points = job.partial or ()
    _status(job, len(points))
    if points:
        show_results(shown, points)


def _job_key(spec: SweepSpec) -> str:
    return f"sweep-{digest(spec)}"


def _submit(spec: SweepSpec) -> None:
    def work(pipeline: Pipeline, job: Job) -> tuple[Point, ...]:
        for point in run_sweep(pipeline, spec):
            job.partial = (*(job.partial or ()), point)
        return job.partial

    worker().forget(_job_key(spec))
    worker().submit(_job_key(spec), f"Sweep of {spec.model.name}", work)


def _status(job: Job, seen: int) -> None:
    """How it goes; a new point runs the page again, so that the charts grow."""
    if job.active:
        show_progress(job, seen=seen)
    elif job.state == FAILED:
        st.error(job.error)
    elif job.state == CANCELLED:
        st.info(f"Cancelled; the {seen} points below are kept. Press Start to go on.")


def show_results(spec: SweepSpec, points: tuple[Point, ...]) -> None:
    """Charts, notes on what could not be done, and all points as a table."""
    frame = sweep_frame(points)
    st.caption(opening(spec))
    if notes := refused(frame):
        st.warning("Could not be done:\n\n" + "\n".join(f"- {note}" for note in notes))
    means, sizes = summary(frame), sizes_of(frame)
    size = _choice("Calibration samples", sizes, sizes[-1:], "sweep-size")
    for index, name in enumerate(text_names(spec.texts)):
        figure = perplexity_chart(frame, spec, name, size)
        show_chart(figure, means, f"sweep-{index}-{_slug(name)}")
    if len(sizes) > 1:
        shares = sparsities_of(frame)
        share = _choice("Sparsity", shares, shares[:1], "sweep-share", form=lambda s: f"{s:.3g}")
        for index, name in enumerate(text_names(spec.texts)):
            figure = size_chart(frame, spec, name, share)
            show_chart(figure, means, f"sweep-sizes-{index}-{_slug(name)}")
    show_chart(cost_chart(frame, spec), means, "sweep-cost")
    _tables(spec, points, frame)


def _choice(label: str, options: list, first: list, key: str, form=str) -> Any:
    """One of ``options``; nothing is asked where there is no choice."""
    if len(options) < 2:
        return first[0] if first else None
    chosen = st.segmented_control(label, options, default=first[0], key=key, format_func=form)
    return first[0] if chosen is None else chosen


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _tables(spec: SweepSpec, points: tuple[Point, ...], frame: pd.DataFrame) -> None:
    st.subheader("Means over the seeds")
    st.dataframe(readable(frame, spec), hide_index=True)
    st.subheader("All points")
    shown = frame.dropna(axis="columns", how="all")
    numbers = [name for name in shown if name.startswith((PREFIX, "realised"))]
    config = {name: st.column_config.NumberColumn(format="%.4g") for name in numbers}
    st.dataframe(shown, hide_index=True, column_config=config)
    with st.container(horizontal=True):
        st.download_button(
            "All points as CSV",
            data=lambda: frame.to_csv(index=False),
            file_name="sweep.csv",
            mime="text/csv",
            on_click="ignore",
            icon=":material/download:",
            key="sweep-csv",
        )
        st.download_button(
            "Report as one HTML page",
            data=lambda: sweep_html(spec, points),
            file_name="sweep.html",
            mime="text/html",
            on_click="ignore",
            icon=":material/download:",
            key="sweep-html",
        )
