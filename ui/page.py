"""The frame of every page: its title, the navigation and the sidebar that all pages share."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import streamlit as st

from bipcore.criteria import CRITERIA
from bipcore.models.loading import unused_adapter
from bipcore.settings import PRESETS, settings_of
from bipcore.specs import PlanSpec

from .address import address_counts, enter, said_of_forms
from .estimates import job_of, show_line
from .forms import seeded
from .job_panel import show_jobs
from .links import admit, show_link, unframed
from .memory import show_kept
from .navigation import show_pages
from .results import error_box, need_content
from .settings import (
    SETTINGS,
    Settings,
    preset_in_use,
    read_settings,
    return_to_address,
    with_preset,
    write_settings,
)
from .words import plain

_FIRST = ("unit", "allocation", "floor", "compensation", "propagation")
PLAN_OPTIONS = tuple(
    name
    for name in dict.fromkeys((*_FIRST, *settings_of(PlanSpec)))
    if SETTINGS[name].label and name != "sparsity"
)
"""The less common plan settings, in the order of their widgets: all that have a label."""

_SIDEBAR = 330
"""The width of the sidebar in pixels."""


def begin(title: str, explanation: str) -> Settings:
    """Set the page up and draw what all pages share; the settings that the sidebar says.

    Every page calls it first, so that each stands by itself behind a deep link. Where a link
    brings settings that nobody has asked for yet, the page ends here (see `links.admit`).
    """
    st.set_page_config(
        page_title=f"{title} · bipcore",
        page_icon="✂️",
        layout="wide",
        initial_sidebar_state=_SIDEBAR,
    )
    unframed()
    _enter(title)
    settings, _ = read_settings()
    with st.sidebar:
        st.markdown("### ✂️ bipcore")
        show_jobs()
        pages = st.container()
        settings = _plan_controls(settings)
        with st.expander(in_use(settings), key="model-and-calibration"):
            settings, pressed = _model_form(settings)
            takes = st.empty()
        show_kept()
    write_settings(settings)
    with pages:
        show_pages()
    with st.sidebar:
        show_link()
    _, problems = read_settings()
    st.title(title)
    st.caption(explanation)
    for problem in problems:
        st.error(plain(problem))
    admit(settings, said_of_forms(st.query_params), pressed=pressed)
    _check(settings)
    need_content(settings)
    with takes:
        show_line(job_of(settings, "score"))
    if note := unused_adapter(settings.model):
        st.warning(plain(note))
    return settings


def _check(settings: Settings) -> None:
    """An error box for what was typed and can be no setting: no page need think of it."""
    with error_box():
        _ = settings.score_spec, settings.plan_spec


def _enter(title: str) -> None:
    """See whether the page is another than before, or was gone back to: then the address counts.

    Streamlit keeps a widget's value within a page only; after a change of page its key still stands
    there, but means nothing. The settings are what counts.
    """
    back = address_counts()
    if back:
        return_to_address()
    if back or st.session_state.get("page") != title:
        _forget_widgets()
        st.session_state["page"] = title
        enter(back=back)


def _forget_widgets() -> None:
    for key in [key for key in st.session_state if str(key).startswith("set-")]:
        del st.session_state[key]


def _chosen(value: object) -> str:
    """A choice in words."""
    return "anything" if value == "" else str(value)


def _field(place, name: str, settings: Settings) -> Any:
    """The widget of a setting, as its spec says what it may be; what it is set to."""
    each, value = SETTINGS[name], getattr(settings, name)
    said = (each.label, name, value)
    help = {"help": each.hint or None}
    if isinstance(value, str) and each.offered:
        options = tuple(dict.fromkeys((*each.offered, value)))
        return seeded(place.selectbox, *said, options, accept_new_options=True, **help)
    if each.choices or each.offered:
        options = each.choices or each.offered
        return seeded(place.selectbox, *said, options, format_func=_chosen, **help)
    if isinstance(value, str):
        return seeded(place.text_input, *said, **help)
    kind = type(value)
    bounds = {
        "min_value": kind(each.least or 0),
        "max_value": None if each.most is None or kind is int else kind(each.most),
        "step": each.step or 1,
    }
    return kind(seeded(place.number_input, *said, **bounds, **help))


def in_use(settings: Settings) -> str:
    """The model and what it is calibrated on, in a line."""
    name, text = (Path(said).name or said for said in (settings.model, settings.text))
    return f"{plain(name)} · {plain(text)}, {settings.samples} × {settings.seq_len} tokens"


def _model_form(settings: Settings) -> tuple[Settings, bool]:
    """Model and calibration: expensive to change, so they take effect with the button; whether it
    was pressed."""
    with st.form("model-form", border=False):
        said = {name: _field(st, name, settings) for name in ("model", "text", "text_field")}
        left, right = st.columns(2)
        places = {"samples": left, "seq_len": right, "seed": left, "dtype": right}
        places |= {"beginning": st}
        said |= {name: _field(place, name, settings) for name, place in places.items()}
        pressed = st.form_submit_button("Load and score", key="load", width="stretch")
    if not pressed:
        return settings, False
    said["model"], said["text"] = said["model"].strip() or "demo", said["text"] or "builtin"
    return replace(settings, **said), True


def _plan_controls(settings: Settings) -> Settings:
    """Criterion and plan: cheap to change, so they take effect at once."""
    _edited_plan(settings)
    preset = st.container()
    criterion = seeded(
        st.selectbox,
        SETTINGS["criterion"].label,
        "criterion",
        settings.criterion,
        tuple(CRITERIA),
        format_func=lambda name: CRITERIA[name].title,
    )
    st.caption(f"{CRITERIA[criterion].formula} · [paper]({CRITERIA[criterion].reference})")
    sparsity = SETTINGS["sparsity"]
    least, most = (round(100 * share) for share in sparsity.offered)
    percent = seeded(
        st.slider,
        sparsity.label,
        "percent",
        round(settings.sparsity * 100),
        min_value=least,
        max_value=most,
    )
    with st.expander("Plan options"):
        options = {name: _field(st, name, settings) for name in PLAN_OPTIONS}
    settings = replace(settings, criterion=criterion, sparsity=percent / 100, **options)
    with preset:  # above the controls, but it says what they are set to
        _preset_control(settings)
    return settings


def _preset_control(settings: Settings) -> None:
    """A choice of named settings. Choosing one fills the controls in; they stay free."""

    def choose() -> None:
        name = st.session_state["set-preset"]
        if name in PRESETS:
            write_settings(with_preset(read_settings()[0], PRESETS[name]))
        _forget_widgets()

    current = preset_in_use(settings)
    st.session_state["set-preset"] = current
    st.pills(
        "Preset",
        tuple(PRESETS),
        key="set-preset",
        on_change=choose,
        help="  \n".join(f"**{preset.name}**: {preset.text}" for preset in PRESETS.values()),
    )


def _edited_plan(settings: Settings) -> None:
    """Say so where a stored plan is in use, and offer to drop it."""

    def drop() -> None:
        write_settings(replace(read_settings()[0], source=""))

    if settings.source:
        st.info("A plan made by hand or for a budget is in use.", icon=":material/edit:")
        st.button("Back to the controls below", key="drop-plan", width="stretch", on_click=drop)
