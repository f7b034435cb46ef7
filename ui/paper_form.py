"""The form that says what of the paper is measured, on how much, and what that takes."""

import shlex
from typing import Any

import streamlit as st

from bipcore.data.texts import NAMED
from bipcore.errors import InputError
from bipcore.models.shapes import ModelShape
from bipcore.specs import ModelSpec
from bipcore.store.kinds import digest
from bipcore.studies.reproduction.estimate import Estimate, assumptions, estimate, sizes_of
from bipcore.studies.reproduction.scale import Changes, configure, fitted, sizes_sentence
from bipcore.studies.reproduction.spec import Reproduction, load_reproduction

from .settings import Settings

LIMIT = 8
"""Rows of each task that the form starts with: minutes on a small machine."""

_FORM = "paper-form"


def measure_form(settings: Settings, name: str) -> tuple[Reproduction | None, bool]:
    """Draw the form; the spec it says, None with an error box where it says none, and whether
    Start was pressed. The model is the sidebar's."""
    with st.container(border=True):
        changes = _changes(name)
        try:
            spec = configure(name, model=settings.model_spec, changes=changes)
            shape = _shape(settings.model_spec, str(settings.model_spec.identity()))
            spec = fitted(spec, shape.max_positions)
            found = _estimate(digest(spec), spec, shape)
        except InputError as error:
            st.error(str(error))
            spec, found = None, None
        left, right = st.columns([1, 4], vertical_alignment="center")
        pressed = left.button(
            "Start", type="primary", key="paper-start", disabled=spec is None, width="stretch"
        )
        if found is not None:
            right.caption(f"{sizes_sentence(spec)} {found}", help="\n\n".join(assumptions(spec)))
    st.caption("The same from the command line, with the report as one HTML page:")
    st.code(command_of(name, settings.model_spec, changes), language="sh")
    return spec, pressed


def _changes(name: str) -> Changes:
    """What the widgets say; they outlive a change of page."""
    values = st.session_state.setdefault(_FORM, {})
    package = load_reproduction(name)
    columns = st.columns([2, 3, 2, 2], vertical_alignment="bottom")
    limit = columns[0].number_input(
        "Limit",
        0,
        None,
        step=1,
        key=_key("limit", values.get("limit", LIMIT)),
        help="So many rows of each task and calibration samples, with short texts and short "
        "fine-tuning to match. 0: all of it, as the paper has it.",
    )
    source = package.calibration.source
    calibration = columns[1].selectbox(
        "Calibration text",
        tuple(dict.fromkeys((*NAMED, values.get("calibration", source)))),
        key=_key("calibration", values.get("calibration", source)),
        accept_new_options=True,
        help="The paper calibrates on C4.",
    )
    tasks = columns[2].checkbox(
        "Zero-shot tasks",
        key=_key("tasks", values.get("tasks", True)),
        disabled=package.tasks is None,
    )
    tuned = columns[3].checkbox(
        "Fine-tuned rows",
        key=_key("tuned", values.get("tuned", True)),
        disabled=not package.tuned,
    )
    said = {"limit": int(limit), "calibration": calibration, "tasks": tasks, "tuned": tuned}
    st.session_state[_FORM] = said
    return Changes(
        limit=int(limit) or None,
        calibration=None if calibration == source else calibration,
        tasks=tasks or package.tasks is None,
        tuned=tuned or not package.tuned,
    )


def _key(name: str, value: Any) -> str:
    """The key of a widget, given its value where the widget has none yet.

    `begin` forgets keys that start so at every change of page.
    """
    key = f"set-paper-{name}"
    if key not in st.session_state:
        st.session_state[key] = value
    return key


def command_of(name: str, model: ModelSpec, changes: Changes) -> str:
    """The command that measures the same."""
    words = ["python", "-m", "bipcore", "reproduce", name, "--model", model.name]
    for option, value in (("--device", model.device), ("--dtype", model.dtype)):
        words += [option, value] if value != "auto" else []
    words += ["--limit", str(changes.limit)] if changes.limit else []
    words += ["--calibration", changes.calibration] if changes.calibration else []
    words += [] if changes.tasks else ["--no-tasks"]
    words += [] if changes.tuned else ["--no-tuned"]
    return shlex.join(words)


@st.cache_resource(max_entries=8, show_spinner=False)
def _shape(model: ModelSpec, content: str) -> ModelShape:
    """The sizes of a model with that content."""
    return sizes_of(model)


@st.cache_resource(max_entries=32, show_spinner=False)
def _estimate(key: str, _spec: Reproduction, _shape: ModelShape) -> Estimate:
    return estimate(_spec, _shape, speed=_speed(_spec.model))


@st.cache_resource(max_entries=8, show_spinner=False)
def _speed(model: ModelSpec) -> float:
    """The device's speed, measured once: other work in between would only disturb it."""
    from bipcore.studies.reproduction.estimate import speed_of

    return speed_of(model)
