"""What a button would start takes: a line beside it."""

from dataclasses import replace

import streamlit as st

from bipcore.errors import InputError
from bipcore.evaluation.estimating import Estimate, Job, check, estimate, sizes_of
from bipcore.evaluation.workload import speed_of
from bipcore.models.identity import known_content
from bipcore.models.shapes import ModelShape
from bipcore.specs import ModelSpec

from .jobs import worker
from .settings import Settings
from .words import plain


def checked_line(job: Job) -> str:
    """What ``job``, which a button starts, takes; empty where the model's files are not here yet,
    or there can be no such plan, which the page says itself.

    Raises InputError where it does not fit. What the worker keeps would go, and nothing is refused
    while it is at work: memory will be another by the time the job starts.
    """
    found = _found(job)
    if found is None:
        return ""
    if not worker().active():
        check(job, found)
    return str(found)


def _found(job: Job) -> Estimate | None:
    model = job.score.model
    if known_content(model.name) is None:
        return None
    try:
        found = replace(estimate(job, shape_of(model)), speed=speed_of(model))
    except InputError:
        return None
    return replace(found, free=found.free + worker().held.bytes(found.device))


def job_of(settings: Settings, task: str, **more: object) -> Job:
    """The job of the sidebar's settings; an edited plan is counted as one of its sparsity."""
    plan = None if task == "score" else replace(settings.plan_spec, source="")
    return Job(task, settings.score_spec, plan, **more)


def show_line(job: Job, name: str = "") -> bool:
    """`checked_line` as a caption, behind a ``name``, or why the job does not fit; whether it may
    be started."""
    try:
        said, fits = checked_line(job), True
    except InputError as error:
        said, fits = str(error), False
    if said:
        st.caption(plain(f"{name}: {said}" if name else said))
    return fits


def shape_of(model: ModelSpec) -> ModelShape:
    """The sizes of a model."""
    return _sizes(model, str(model.identity()))


@st.cache_resource(max_entries=8, show_spinner=False)
def _sizes(model: ModelSpec, content: str) -> ModelShape:
    """The sizes of a model with that content."""
    return sizes_of(model)
