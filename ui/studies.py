"""What a page measures by one job that grows: starting it, finding it again, how it goes."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import streamlit as st

from .address import here
from .engines import Work
from .jobs import CANCELLED, FAILED, QUEUED, RUNNING, Job, worker
from .results import show_progress
from .words import items, plain


@dataclass(frozen=True)
class Study:
    """``key`` says what it computes, ``title`` names its job, ``spec`` is what its page shows it
    by. ``group``: of those in it, e.g. of one model, the one started last can be found."""

    key: str
    title: str = ""
    spec: Any = None
    group: Hashable = None

    @property
    def job(self) -> Job | None:
        return worker().find(self.key)

    def start(self, work: Work) -> None:
        """Start it, once more where it has ended."""
        worker().forget(self.key)
        worker().submit(self.key, self.title, work, here())
        if self.group is not None:
            last_studies()[self.group] = self


@st.cache_resource(show_spinner=False)
def last_studies() -> dict[Hashable, Study]:
    """The study of each group that was started last: a reload finds it here."""
    return {}


def to_show(own: Study | None, group: Hashable) -> Study | None:
    """The form's own study where it was started, else the one of the group started last."""
    if own is None or own.job is None:
        return last_studies().get(group)
    return own


def follow(
    study: Study | None,
    own: Study | None = None,
    *,
    cancelled: str,
    nothing: str = "",
    other: str = "",
    stop: str = "Cancel",
    done: Callable[[tuple], None] = lambda results: None,
) -> tuple:
    """Show how a study goes, and run the page again when a new result is there; the results so
    far.

    ``nothing`` is said where there is no study, ``other`` where it is not the form's ``own``,
    ``cancelled`` where it was, with the number of results for {}. ``done`` is called with the
    results of one that ended well.
    """
    job = study.job if study is not None else None
    if job is None:
        if nothing:
            st.info(nothing)
        return ()
    if other and (own is None or study.key != own.key):
        st.info(other)
    state = job.state
    results = job.partial or ()  # read after the state, so that none is missing at the end
    if state in (QUEUED, RUNNING):
        show_progress(job, seen=len(results), stop=stop)
    elif state == FAILED:
        st.error(plain(job.error))
    elif state == CANCELLED:
        st.info(cancelled.format(len(results)))
    else:
        done(results)
    return results


def say_refused(notes: Sequence[str]) -> bool:
    """Whether there are any results that could not be had; why, in a box."""
    if notes:
        st.warning("Could not be done:\n\n" + items(notes))
    return bool(notes)
