"""The page Paper, measuring: the form that says what, on how much, what that takes; the job."""

import shlex
from typing import Any

import streamlit as st

from bipcore.data.texts import NAMED
from bipcore.evaluation.workload import speed_of
from bipcore.specs import ModelSpec
from bipcore.store.kinds import digest
from bipcore.studies.reproduction.estimate import Estimate, assumptions, estimate
from bipcore.studies.reproduction.rows import Row
from bipcore.studies.reproduction.run import run_reproduction
from bipcore.studies.reproduction.scale import Changes, configure, fitted, sizes_sentence
from bipcore.studies.reproduction.spec import Reproduction, load_reproduction, names
from bipcore.views.reproduction_tables import refused

from .estimates import shape_of
from .forms import Form
from .settings import Settings
from .studies import Study, follow, say_refused, to_show
from .work import one_by_one

LIMIT = 8
"""Rows of each task that the form starts with: minutes on a small machine."""

_HELP = {
    "limit": "So many rows of each task and calibration samples, with short texts and short "
    "fine-tuning to match. 0: all of it, as the paper has it.",
    "calibration": "The paper calibrates on C4.",
}


def choose_reproduction() -> str:
    """Which table or figure; the choice outlives a change of page."""
    titles = {name: load_reproduction(name).title for name in names()}
    form = Form("paper", {"name": names()[0]})
    return form.field(st.selectbox, "Table or figure", "name", titles, format_func=titles.get)


def paper_form(settings: Settings, name: str) -> tuple[Reproduction | None, bool]:
    """Draw the form; the spec it says, None with an error box where it says none, and whether
    Start was pressed. The model is the sidebar's."""
    package, model = load_reproduction(name), settings.model_spec
    source = package.calibration.source
    values = {"limit": LIMIT, "calibration": source, "tasks": True, "tuned": True}
    form = Form("paper", values, _HELP)

    def read(values: dict[str, Any]) -> Reproduction:
        spec = configure(name, model=model, changes=_changes(package, values))
        return fitted(spec, shape_of(model).max_positions)

    with st.container(border=True):
        _fields(form, package)
        spec, pressed = form.start_row(
            read,
            lambda spec: f"{sizes_sentence(spec)} {_estimate(digest(spec), spec)}",
            help=lambda spec: "\n\n".join(assumptions(spec, shape_of(model))),
        )
    st.caption("The same from the command line, with the report as one HTML page:")
    st.code(command_of(name, model, _changes(package, form.values)), language="sh")
    return spec, pressed


def _fields(form: Form, package: Reproduction) -> None:
    limit, calibration, tasks, tuned = st.columns([2, 3, 2, 2], vertical_alignment="bottom")
    form.number(limit, "Limit", "limit", 0)
    source = package.calibration.source
    form.choice(calibration, "Calibration text", "calibration", NAMED, empty=source)
    form.field(tasks.checkbox, "Zero-shot tasks", "tasks", disabled=package.tasks is None)
    form.field(tuned.checkbox, "Fine-tuned rows", "tuned", disabled=not package.tuned)


def _changes(package: Reproduction, values: dict[str, Any]) -> Changes:
    calibration = values["calibration"]
    return Changes(
        limit=values["limit"] or None,
        calibration=None if calibration == package.calibration.source else calibration,
        tasks=values["tasks"] or package.tasks is None,
        tuned=values["tuned"] or not package.tuned,
    )


def command_of(name: str, model: ModelSpec, changes: Changes) -> str:
    """The command that measures the same."""
    words = ["python", "-m", "bipcore", "reproduce", name, "--model", model.name]
    for option in ("device", "dtype", "memory"):
        said = getattr(model, option)
        words += [f"--{option}", said] if said != "auto" else []
    words += ["--limit", str(changes.limit)] if changes.limit else []
    words += ["--calibration", changes.calibration] if changes.calibration else []
    words += [] if changes.tasks else ["--no-tasks"]
    words += [] if changes.tuned else ["--no-tuned"]
    return shlex.join(words)


@st.cache_resource(max_entries=32, show_spinner=False)
def _estimate(key: str, _spec: Reproduction) -> Estimate:
    return estimate(_spec, shape_of(_spec.model), speed=speed_of(_spec.model))


def run_job(settings: Settings, spec: Reproduction | None, *, start: bool) -> None:
    """Start measuring where asked; show how it goes: what the form says, else what of this table
    was started last."""
    if spec is None:
        return
    group = ("paper", settings.model_spec, spec.name)
    own = Study(f"reproduction-{digest(spec)}", f"{spec.title} ({spec.model.name})", group=group)
    if start:
        own.start(one_by_one(run_reproduction, spec))
    follow(
        to_show(own, group),
        cancelled="Cancelled; the {} rows that were done are kept. Press Start to go on.",
        done=_say_done,
    )


def _say_done(rows: tuple[Row, ...]) -> None:
    if not say_refused(refused(rows)):
        st.success(f"Measured: {len(rows)} rows.")
