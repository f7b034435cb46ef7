"""The form that says which tasks are measured, on how many rows. It survives changes of page."""

from dataclasses import dataclass
from typing import Any

import streamlit as st

from bipcore.data.tasks import KNOWN, local_file, rows_at_hand
from bipcore.errors import InputError
from bipcore.evaluation.zero_shot import check_numbers, requests_of
from bipcore.specs import SEVEN, ModelSpec, ZeroShotSpec

from .settings import Settings

_FORM = "zero-shot-form"
ROWS = 50
"""Rows of each task that the form starts with: minutes on a CPU."""


@dataclass(frozen=True)
class Run:
    """A run that was started: its job, what it measures, the sparsity of its plan, its form."""

    key: str
    tasks: ZeroShotSpec
    sparsity: float | None
    values: dict[str, Any]


@st.cache_resource(show_spinner=False)
def latest_runs() -> dict[ModelSpec, Run]:
    """The run of each model that was started last: a reload finds it here."""
    return {}


def zero_shot_form(settings: Settings, states: int) -> tuple[ZeroShotSpec | None, bool]:
    """Draw the form; the tasks it says, None with an error box where it says none, and whether
    Start was pressed. ``states``: of how many models they are measured."""
    values = _values(settings)
    with st.container(border=True):
        values = _fields(values)
        st.session_state[_FORM] = values
        try:
            spec = ZeroShotSpec(
                tuple(values["tasks"]), values["shots"], values["rows"] or None, values["batch"]
            )
            check_numbers(spec)
        except InputError as error:
            st.error(str(error))
            spec = None
        left, right = st.columns([1, 4], vertical_alignment="center")
        pressed = left.button(
            "Start", type="primary", key="zero-shot-start", disabled=spec is None, width="stretch"
        )
        if spec is not None:
            right.caption(estimate(spec, states))
    return spec, pressed


def form_values() -> dict[str, Any]:
    """What the form says now."""
    return dict(st.session_state[_FORM])


def _values(settings: Settings) -> dict[str, Any]:
    """The form as this session left it, else as the last run of this model was started."""
    if _FORM in st.session_state:
        return st.session_state[_FORM]
    last = latest_runs().get(settings.model_spec)
    default = {"tasks": list(SEVEN), "rows": ROWS, "shots": 0, "batch": ZeroShotSpec.batch_size}
    return default | (last.values if last else {})


def _key(name: str, values: dict[str, Any]) -> str:
    """The key of a widget, given its value where it has none yet.

    `begin` forgets keys that start so at every change of page.
    """
    key = f"set-zero-shot-{name}"
    if key not in st.session_state:
        st.session_state[key] = values[name]
    return key


def _fields(values: dict[str, Any]) -> dict[str, Any]:
    tasks = st.multiselect(
        "Tasks",
        list(dict.fromkeys((*SEVEN, *values["tasks"]))),
        key=_key("tasks", values),
        accept_new_options=True,
        help="The seven of the paper; or type the name of another task of lm_eval, which is then "
        "had from the hub.",
    )
    columns = st.columns(3)
    rows = columns[0].number_input(
        "Rows of each", 0, None, step=10, key=_key("rows", values), help="The first ones; 0: all."
    )
    shots = columns[1].number_input(
        "Examples",
        0,
        None,
        step=1,
        key=_key("shots", values),
        help="Solved examples in every prompt: few-shot. 0: zero-shot, as the paper has it.",
    )
    batch = columns[2].number_input(
        "Batch",
        1,
        None,
        step=1,
        key=_key("batch", values),
        help="Requests in a forward pass. It changes speed and memory, not the results.",
    )
    return {"tasks": tasks, "rows": int(rows), "shots": int(shots), "batch": int(batch)}


def estimate(spec: ZeroShotSpec, states: int) -> str:
    """How much a run is: rows and answers, and where the rows come from."""
    known = [task for task in spec.tasks if task in KNOWN]
    counts = [min(rows_at_hand(task), spec.limit or rows_at_hand(task)) for task in known]
    answers = sum(requests_of(task, spec.limit) for task in known)
    models = "the dense model" if states == 1 else f"{states} models, the dense one among them"
    parts = [f"{sum(counts):,} rows with about {answers:,} answers to score, on {models}."]
    whole = sum(KNOWN[task].rows for task in known)
    if sum(counts) < whole:
        parts.append(f"The whole tasks have {whole:,} rows: this is a sample, not the benchmark.")
    others = [task for task in spec.tasks if task not in KNOWN]
    if others:
        parts.append(f"Not counted: {', '.join(others)}, with as many rows as lm_eval has.")
    if distant := [task for task in spec.tasks if local_file(task) is None]:
        parts.append(f"From the hub: {', '.join(distant)}.")
    return " ".join([*parts, "What is stored is not measured again."])
