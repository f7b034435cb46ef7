"""What the worker does, did and will do, on whichever page it was asked for."""

import streamlit as st

from .address import this_page
from .jobs import CANCELLED, DONE, RUNNING, Job, worker
from .navigation import link_back
from .words import plain

_SHOWN = "jobs-shown"


def show_jobs() -> None:
    """The jobs that run or wait, each with a button to stop it; what went on when a server was
    stopped; and how the last ones ended."""
    _interrupted()
    st.session_state[_SHOWN] = bool(worker().active())
    if st.session_state[_SHOWN]:
        _running()
    elif ended := worker().ended():
        with st.expander(f"Last: {_title(ended[0])}, {ended[0].state}", key="ended-jobs"):
            for job in ended:
                st.caption(f"{_title(job)}: {_end(job)}, {job.seconds:,.0f} s")


def see_panel() -> None:
    """Run the page again where a job was asked for after the panel was drawn without any."""
    if not st.session_state.get(_SHOWN, True):
        st.rerun()


@st.fragment(run_every=1.0)
def _running() -> None:
    active = worker().active()
    if not active:
        st.rerun()
    for place, job in enumerate(active):
        with st.container(horizontal=True, vertical_alignment="center", gap="small"):
            with st.container(gap="xxsmall"):
                if job.state == RUNNING:
                    left = job.seconds_left
                    said = "" if left is None else f", about {left:,.0f} s left"
                    text = f"{_title(job)} · {job.seconds:,.0f} s{said}"
                    st.progress(job.fraction, text=text)
                else:
                    st.caption(f"Waits, {place} before it: {_title(job)}")
                if job.place is not None and job.place[0] != this_page():
                    link_back(job.place, "Its page")
            st.button(
                "",
                key=f"stop-{job.key}",
                icon=":material/stop_circle:",
                type="tertiary",
                help="Stop it; what it has stored stays.",
                on_click=job.cancel,
            )


def _interrupted() -> None:
    """What a server that has gone was asked for and did not finish, with links that lead there."""
    if not (found := worker().log.interrupted()):
        return
    count = "A job was" if len(found) == 1 else f"{len(found)} jobs were"
    with st.expander(f"{count} interrupted", icon=":material/warning:", key="interrupted-jobs"):
        st.caption("The app was stopped meanwhile. What was stored is kept, and is not done again.")
        for one in found:
            with st.container(horizontal=True, vertical_alignment="center", gap="small"):
                if one.place is None:
                    st.caption(plain(one.title), width="stretch")
                else:
                    link_back(one.place, plain(one.title))
                st.button(
                    "",
                    key=f"forget-{one.number}",
                    icon=":material/close:",
                    type="tertiary",
                    help="Tell of it no longer.",
                    on_click=worker().log.forget,
                    args=(one.number,),
                )


def _title(job: Job) -> str:
    return plain(job.title)


def _end(job: Job) -> str:
    if job.state in (DONE, CANCELLED):
        return job.state
    return f"failed: {plain(job.error or '')}"
