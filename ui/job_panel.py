"""What the worker does, did and will do, on whichever page it was asked for."""

import streamlit as st

from .jobs import CANCELLED, DONE, RUNNING, Job, worker
from .words import plain


def show_jobs() -> None:
    """The jobs that run or wait, each with a button to stop it, and how the last ones ended."""
    if worker().active():
        _running()
    elif ended := worker().ended():
        with st.expander(f"Last: {_title(ended[0])}, {ended[0].state}", key="ended-jobs"):
            for job in ended:
                st.caption(f"{_title(job)}: {_end(job)}, {job.seconds:,.0f} s")


@st.fragment(run_every=1.0)
def _running() -> None:
    active = worker().active()
    if not active:
        st.rerun()
    for place, job in enumerate(active):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            if job.state == RUNNING:
                left = job.seconds_left
                said = "" if left is None else f", about {left:,.0f} s left"
                text = f"{_title(job)} · {job.seconds:,.0f} s{said}"
                st.progress(job.fraction, text=text)
            else:
                st.caption(f"Waits, {place} before it: {_title(job)}", width="stretch")
            st.button(
                "",
                key=f"stop-{job.key}",
                icon=":material/stop_circle:",
                type="tertiary",
                help="Stop it; what it has stored stays.",
                on_click=job.cancel,
            )


def _title(job: Job) -> str:
    return plain(job.title)


def _end(job: Job) -> str:
    if job.state in (DONE, CANCELLED):
        return job.state
    return f"failed: {plain(job.error or '')}"
