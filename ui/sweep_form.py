"""The form that says what a sweep measures. It survives changes of page, and a reload."""

from dataclasses import replace
from typing import Any

import streamlit as st

from bipcore.criteria import CRITERIA
from bipcore.data.texts import NAMED
from bipcore.errors import InputError
from bipcore.specs import PRESETS, CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, parse_list
from bipcore.studies.sweep import SweepSpec, check_sweep, tasks, text_names

from .settings import Settings

_FORM = "sweep-form"
_LIST_HELP = "Several with commas between."


def sweep_form(settings: Settings) -> tuple[SweepSpec | None, bool]:
    """Draw the form; the sweep it says, None with an error box where it says none, and whether
    Start was pressed."""
    values = _form_values(settings)
    with st.container(border=True):
        values = _lines_part(values) | _texts_part(values)
        st.session_state[_FORM] = values
        try:
            spec = _spec(settings, values)
            check_sweep(spec)
        except InputError as error:
            st.error(str(error))
            spec = None
        pressed = _start_row(settings, spec)
    if pressed:
        latest_sweeps()[settings.model_spec] = (spec, values)
    return spec, pressed


def _form_values(settings: Settings) -> dict[str, Any]:
    """The form as this session left it, else as the last sweep of this model was started."""
    if _FORM in st.session_state:
        return st.session_state[_FORM]
    default = SweepSpec()
    _, last = latest_sweeps().get(settings.model_spec, (None, {}))
    return {
        "criteria": list(default.criteria),
        "presets": [],
        "percents": ", ".join(f"{100 * s:g}" for s in default.sparsities),
        "seeds": str(settings.seed),
        "sizes": str(settings.samples),
        "texts": ["builtin"],
        "window": default.texts[0].window,
        "tokens": default.texts[0].max_tokens,
        "profile": False,
    } | last


@st.cache_resource(show_spinner=False)
def latest_sweeps() -> dict[ModelSpec, tuple[SweepSpec, dict[str, Any]]]:
    """The sweep of each model that was started last, and its form: a reload finds it here."""
    return {}


def _key(name: str, value: Any) -> str:
    """The key of a widget, given its value where the widget has none yet.

    `begin` forgets keys that start so at every change of page.
    """
    key = f"set-sweep-{name}"
    if key not in st.session_state:
        st.session_state[key] = value
    return key


def _lines_part(values: dict[str, Any]) -> dict[str, Any]:
    left, right = st.columns([3, 1])
    criteria = left.multiselect(
        "Criteria",
        tuple(CRITERIA),
        key=_key("criteria", values["criteria"]),
        format_func=lambda name: CRITERIA[name].title,
    )
    presets = right.multiselect(
        "Presets",
        tuple(PRESETS),
        key=_key("presets", values["presets"]),
        help="Each is a line of its own, with the preset's criterion and plan options.",
    )
    columns = st.columns(3)
    percents = columns[0].text_input(
        "Sparsities, % of the blocks' parameters",
        key=_key("percents", values["percents"]),
        help=_LIST_HELP,
    )
    seeds = columns[1].text_input(
        "Seeds",
        key=_key("seeds", values["seeds"]),
        help="Each draws other calibration samples, and other random scores. Several, with commas "
        "between, give error bars.",
    )
    sizes = columns[2].text_input(
        "Calibration samples", key=_key("sizes", values["sizes"]), help=_LIST_HELP
    )
    return {
        "criteria": criteria,
        "presets": presets,
        "percents": percents,
        "seeds": seeds,
        "sizes": sizes,
    }


def _texts_part(values: dict[str, Any]) -> dict[str, Any]:
    columns = st.columns([3, 1, 1, 1], vertical_alignment="bottom")
    texts = columns[0].multiselect(
        "Test texts",
        list(dict.fromkeys((*NAMED, *values["texts"]))),
        key=_key("texts", values["texts"]),
        accept_new_options=True,
        help="Or type the path of a text or JSONL file on the machine that runs this app.",
    )
    window = columns[1].number_input(
        "Window, tokens", 2, None, step=1, key=_key("window", values["window"])
    )
    tokens = columns[2].number_input(
        "Test tokens", 0, None, step=1, key=_key("tokens", values["tokens"]), help="0: all of them."
    )
    profile = columns[3].checkbox(
        "Profile",
        key=_key("profile", values["profile"]),
        help="Measure latency and peak memory, too. Do nothing else on the machine meanwhile.",
    )
    return {"texts": texts, "window": int(window), "tokens": int(tokens), "profile": profile}


def _spec(settings: Settings, values: dict[str, Any]) -> SweepSpec:
    """The sweep of the form and the sidebar; what does not count is left at its default, so that
    it does not make another sweep of it."""
    default = PlanSpec()
    percents = parse_list(values["percents"], float, "sparsities")
    texts = [EvaluationSpec(t, values["window"], values["tokens"] or None) for t in values["texts"]]
    calibration = settings.score_spec.calibration
    return SweepSpec(
        model=settings.model_spec,
        criteria=tuple(values["criteria"]),
        sparsities=tuple(round(percent / 100, 6) for percent in percents),
        seeds=parse_list(values["seeds"], int, "seeds"),
        samples=parse_list(values["sizes"], int, "calibration samples"),
        calibration=CalibrationSpec(calibration.source, seq_len=calibration.seq_len),
        plan=replace(settings.plan_spec, sparsity=default.sparsity, source=default.source),
        texts=tuple(texts),
        profile=values["profile"],
        presets=tuple(values["presets"]),
    )


def _start_row(settings: Settings, spec: SweepSpec | None) -> bool:
    left, right = st.columns([1, 4], vertical_alignment="center")
    pressed = left.button(
        "Start", type="primary", key="sweep-start", disabled=spec is None, width="stretch"
    )
    if spec is not None:
        texts = len(text_names(spec.texts))
        calibration = spec.calibration
        note = (
            f"{len(tasks(spec))} points, the dense model among them; each is one pruned model on "
            f"{texts} test text{'s' if texts > 1 else ''}. Calibration on {calibration.source}, "
            f"{calibration.seq_len} tokens a sample, and plan options as in the sidebar. What is "
            "stored is not computed again."
        )
        if settings.source:
            note += " The edited plan is not used here."
        right.caption(note)
    return pressed
