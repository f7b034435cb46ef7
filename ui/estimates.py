"""What a button would start takes: a line beside it."""

from dataclasses import replace

import streamlit as st

from bipcore.errors import InputError
from bipcore.evaluation.estimating import Job, check, estimate, sizes_of
from bipcore.evaluation.workload import speed_of
from bipcore.models.identity import known_content
from bipcore.models.shapes import ModelShape
from bipcore.specs import ModelSpec

from .settings import Settings
from .words import plain


def line(job: Job) -> str:
    """What ``job`` takes, or what would fit where it does not; empty where the model's files are
    not here yet, or there can be no such plan, which the page says itself."""
    model = job.score.model
    if known_content(model.name) is None:
        return ""
    try:
        found = replace(estimate(job, shape_of(model)), speed=speed_of(model))
    except InputError:
        return ""
    try:
        check(job, found)
    except InputError as error:
        return str(error)
    return str(found)


def job_of(settings: Settings, task: str, **more: object) -> Job:
    """The job of the sidebar's settings; an edited plan is counted as one of its sparsity."""
    plan = None if task == "score" else replace(settings.plan_spec, source="")
    return Job(task, settings.score_spec, plan, **more)


def show_line(job: Job) -> None:
    """`line` as a caption, where there is one."""
    if said := line(job):
        st.caption(plain(said))


def shape_of(model: ModelSpec) -> ModelShape:
    """The sizes of a model."""
    return _sizes(model, str(model.identity()))


@st.cache_resource(max_entries=8, show_spinner=False)
def _sizes(model: ModelSpec, content: str) -> ModelShape:
    """The sizes of a model with that content."""
    return sizes_of(model)
