"""Reading results for a page: from the run store, or by a job that the page waits for."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import streamlit as st

from bipcore.criteria import Scores
from bipcore.criteria.base import SCORES
from bipcore.errors import InputError, explain
from bipcore.models.identity import unread
from bipcore.pipeline.pipeline import Pipeline, score_identity
from bipcore.pipeline.plans import plan_of
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import PlanSpec, ScoreSpec
from bipcore.store.kinds import digest
from bipcore.store.runs import RunStore

from . import work
from .address import here
from .engines import Work
from .job_panel import see_panel
from .jobs import DONE, FAILED, QUEUED, RUNNING, Job, worker
from .settings import Settings
from .words import plain

LARGE = 2**28
"""Bytes of a model's files above which no page reads them itself."""


@contextmanager
def error_box() -> Iterator[None]:
    """Within it, an error that the user can mend becomes a box, and the page ends there."""
    try:
        yield
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        st.error(plain(sentence))
        st.stop()


def need(
    key: str,
    title: str,
    task: Work,
    meanwhile: Callable[[], None] | None = None,
) -> Any:
    """The result of a job; while there is none, show how it goes, and what ``meanwhile`` draws
    below, and end the page there."""
    job = worker().ask(key, title, task, here())
    if (state := job.state) != DONE:
        _show_unfinished(job, state)
        if meanwhile is not None:
            meanwhile()
        st.stop()
    return job.result


def _show_unfinished(job: Job, state: str) -> None:
    """``state``: that of the job when it was not done; it may be by now."""
    if state in (QUEUED, RUNNING):
        show_progress(job)
        return
    if state == FAILED:
        st.error(plain(job.error))
    else:
        st.info(f"{plain(job.title)}: cancelled.")
    if st.button("Try again", key=f"again-{job.key}"):
        worker().forget(job.key, job)
        st.rerun()


def show_progress(job: Job, *, seen: int | None = None, stop: str = "Cancel") -> None:
    """Progress, an estimate of the time left and a button to cancel, kept up to date.

    ``seen``: of a job that grows, how many partial results the page shows; one more runs the page
    again.
    """

    @st.fragment(run_every=1.0)
    def panel() -> None:
        grown = seen is not None and len(job.partial or ()) > seen
        if not job.active or grown:
            st.rerun()
        left = job.seconds_left
        estimate = f" · about {left:,.0f} s left" if left is not None else ""
        title = "" if seen is not None else f"**{plain(job.title)}** · "
        st.progress(job.fraction, text=f"{title}{plain(job.message)}{estimate}")
        if st.button(stop, key=f"cancel-{job.key}"):
            job.cancel()

    see_panel()
    panel()


def need_content(settings: Settings) -> None:
    """See what the files of the model hold, by a job where they are large and not known yet."""
    with error_box():
        if unread(settings.model) < LARGE:
            return
    key, name = f"content-{settings.model}", settings.model
    need(key, f"Reading the files of {name}", partial(work.read_content, name))
    worker().forget(key)


def need_scores(
    settings: Settings, meanwhile: Callable[[], None] | None = None
) -> tuple[Scores, PruningPlan]:
    """The scores and the plan of the settings, computed first where they are not stored;
    ``meanwhile`` as `need` has it."""
    spec, plan = settings.score_spec, settings.plan_spec
    key, scores = _need_scores(spec, plan, meanwhile)
    with error_box():
        return scores, _planned(key, scores, spec, plan)


def stored_plan_of(settings: Settings) -> tuple[Scores, PruningPlan] | None:
    """What `need_scores` gives where the scores are stored; else None, and nothing is computed."""
    spec, plan = settings.score_spec, settings.plan_spec
    with error_box():
        key = digest(score_identity(spec, plan))
        scores = _stored_scores(key, spec, plan)
        if scores is None:
            return None
        return scores, _planned(key, scores, spec, plan)


def need_scores_of(spec: ScoreSpec) -> Scores:
    """The scores of ``spec`` on the dense model, computed first where they are not stored."""
    return _need_scores(spec, PlanSpec())[1]


def stored_scores_of(spec: ScoreSpec) -> Scores | None:
    """The stored scores of ``spec`` on the dense model; None where there are none."""
    return _stored_scores(digest(score_identity(spec)), spec, PlanSpec())


def _need_scores(
    spec: ScoreSpec, plan: PlanSpec, meanwhile: Callable[[], None] | None = None
) -> tuple[str, Scores]:
    with error_box():
        key = digest(score_identity(spec, plan))
        scores = _stored_scores(key, spec, plan)
    if scores is None:
        title = f"Scoring {spec.model.name} with {spec.criterion}"
        need(f"scores-{key}", title, partial(work.score, spec, plan), meanwhile)
        worker().forget(f"scores-{key}")
        with error_box():
            scores = _stored_scores(key, spec, plan)
            if scores is None:
                raise InputError("The scores are gone from the run store; load this page again.")
    return key, scores


def _stored_scores(key: str, spec: ScoreSpec, plan: PlanSpec) -> Scores | None:
    """Kept in memory once read; None where the store has none."""
    try:
        return _read_scores(key, spec, plan)
    except _NotStored:
        return None


class _NotStored(Exception):
    """There is nothing to keep in memory."""


@st.cache_resource(max_entries=16, show_spinner=False)
def _read_scores(key: str, _spec: ScoreSpec, _plan: PlanSpec) -> Scores:
    """The stored scores; raises `_NotStored` where there are none, which is not kept."""
    scores = RunStore().stored(SCORES, score_identity(_spec, _plan))
    if scores is None:
        raise _NotStored
    return scores


def _planned(key: str, scores: Scores, spec: ScoreSpec, plan: PlanSpec) -> PruningPlan:
    return stored_plan(plan.source, scores) if plan.source else _plan(key, scores, spec, plan)


@st.cache_resource(max_entries=32, show_spinner=False)
def _plan(key: str, _scores: Scores, spec: ScoreSpec, plan: PlanSpec) -> PruningPlan:
    """The plan of the scores that ``key`` identifies."""
    return plan_of(_scores, spec, plan)


def stored_plan(source: str, scores: Scores) -> PruningPlan:
    """The plan that was kept under the name ``source``; raises InputError where it is gone, or
    is that of another model."""
    plan = _kept_plan(source)
    if plan.shape.differs_in(scores.shape):
        raise InputError(
            "The edited plan in use was made for a model of another shape; go back to the "
            "controls in the sidebar."
        )
    return plan


@st.cache_resource(max_entries=32, show_spinner=False)
def _kept_plan(source: str) -> PruningPlan:
    return Pipeline().stored_plan(source)
