"""The frame of every page: its title, the navigation and the sidebar that all pages share."""

from dataclasses import replace

import streamlit as st
from streamlit.errors import StreamlitAPIException

from bipcore.criteria import CRITERIA
from bipcore.data.texts import NAMED
from bipcore.models.loading import DTYPES
from bipcore.settings import PRESETS
from bipcore.specs import ALLOCATIONS, COMPENSATIONS, PROPAGATIONS, UNITS

from .jobs import worker
from .settings import (
    MOST_SPARSITY,
    ROUND_TO,
    Settings,
    preset_in_use,
    read_settings,
    with_preset,
    write_settings,
)

PAGES = (
    ("app.py", "Overview", ":material/home:"),
    ("pages/scores.py", "Scores", ":material/bar_chart:"),
    ("pages/compare.py", "Compare", ":material/compare_arrows:"),
    ("pages/plan.py", "Plan", ":material/edit:"),
    ("pages/reconstruction.py", "Reconstruction error", ":material/show_chart:"),
    ("pages/sweep.py", "Sweep", ":material/stacked_line_chart:"),
    ("pages/zero_shot.py", "Zero-shot", ":material/quiz:"),
    ("pages/recover.py", "Recover", ":material/healing:"),
    ("pages/generate.py", "Generate", ":material/chat:"),
    ("pages/export.py", "Export", ":material/download:"),
    ("pages/paper.py", "Paper", ":material/menu_book:"),
)


def begin(title: str, explanation: str) -> Settings:
    """Set the page up and draw what all pages share; the settings that the sidebar says.

    Every page calls it first, so that each stands by itself behind a deep link.
    """
    st.set_page_config(page_title=f"{title} · bipcore", page_icon="✂️", layout="wide")
    settings, _ = read_settings()
    _forget_widgets_of_other_pages(title)
    with st.sidebar:
        st.markdown("### ✂️ bipcore")
        for path, label, icon in PAGES:
            page_link(path, label, icon)
        settings = _model_form(settings)
        settings = _plan_controls(settings)
        _active_jobs()
    write_settings(settings)
    _, problems = read_settings()
    st.title(title)
    st.caption(explanation)
    for problem in problems:
        st.error(problem)
    return settings


def page_link(path: str, label: str, icon: str) -> None:
    """A link to another page; by address where this page is run alone, not from app.py."""
    try:
        st.page_link(path, label=label, icon=icon)
    except StreamlitAPIException:
        address = "" if path == "app.py" else path.removeprefix("pages/").removesuffix(".py")
        st.markdown(f"{icon} [{label}](/{address})")


def _forget_widgets_of_other_pages(title: str) -> None:
    """Streamlit keeps a widget's value within a page only; after a change of page its key still
    stands there, but means nothing. The settings are what counts."""
    if st.session_state.get("page") != title:
        _forget_widgets()
    st.session_state["page"] = title


def _forget_widgets() -> None:
    for key in [key for key in st.session_state if str(key).startswith("set-")]:
        del st.session_state[key]


def _seed(name: str, value) -> str:
    """The widget key for a setting, given its value where the widget has none of its own yet."""
    key = f"set-{name}"
    if key not in st.session_state:
        st.session_state[key] = value
    return key


def _model_form(settings: Settings) -> Settings:
    """Model and calibration: expensive to change, so they take effect with the button."""
    with st.form("model-form", border=False):
        st.markdown("**Model and calibration**")
        model = st.text_input(
            "Model",
            key=_seed("model", settings.model),
            help="demo, a folder on the machine that runs this app, or a hub id (owner/name).",
        )
        texts = (*NAMED, settings.text) if settings.text not in NAMED else NAMED
        text = st.selectbox(
            "Calibration text",
            texts,
            key=_seed("text", settings.text),
            accept_new_options=True,
            help="builtin is Python's language reference; or type the path of a text or JSONL "
            "file. The others come from the folder BIPCORE_DATA, else from the hub.",
        )
        left, right = st.columns(2)
        samples = left.number_input(
            "Samples", 1, None, step=1, key=_seed("samples", settings.samples)
        )
        seq_len = right.number_input(
            "Tokens each", 2, None, step=1, key=_seed("seq_len", settings.seq_len)
        )
        seed = left.number_input("Seed", 0, None, step=1, key=_seed("seed", settings.seed))
        dtype = right.selectbox("Type", DTYPES, key=_seed("dtype", settings.dtype))
        pressed = st.form_submit_button("Load and score", key="load", width="stretch")
    if not pressed:
        return settings
    return replace(
        settings,
        model=model.strip() or "demo",
        text=text or "builtin",
        samples=int(samples),
        seq_len=int(seq_len),
        seed=int(seed),
        dtype=dtype,
    )


def _plan_controls(settings: Settings) -> Settings:
    """Criterion and plan: cheap to change, so they take effect at once."""
    _edited_plan(settings)
    preset = st.container()
    criterion = st.selectbox(
        "Criterion",
        tuple(CRITERIA),
        key=_seed("criterion", settings.criterion),
        format_func=lambda name: CRITERIA[name].title,
    )
    st.caption(f"{CRITERIA[criterion].formula} · [paper]({CRITERIA[criterion].reference})")
    percent = st.slider(
        "Sparsity, % of the blocks' parameters",
        0,
        round(MOST_SPARSITY * 100),
        key=_seed("percent", round(settings.sparsity * 100)),
    )
    with st.expander("Plan options"):
        options = _plan_options(settings)
    settings = replace(settings, criterion=criterion, sparsity=percent / 100, **options)
    with preset:  # above the controls, but it says what they are set to
        _preset_control(settings)
    return settings


def _plan_options(settings: Settings) -> dict:
    """The less common plan settings, by the name of their field."""
    return {
        "unit": st.selectbox("Attention unit", UNITS.ALL, key=_seed("unit", settings.unit)),
        "allocation": st.selectbox(
            "Allocation",
            ALLOCATIONS,
            key=_seed("allocation", settings.allocation),
            help="uniform and paper: the same widths in every block. global: standardised scores "
            "compared across blocks. sublayer: whole sublayers, for BlockPruner. auto: what the "
            "criterion's authors use.",
        ),
        "floor": st.number_input(
            "Floor of a block",
            0.0,
            1.0,
            step=0.05,
            key=_seed("floor", settings.floor),
            help="With global allocation: the share of its heads and of its channels that every "
            "block keeps at least. 0 lets whole sublayers go.",
        ),
        "compensation": st.selectbox(
            "Compensation",
            COMPENSATIONS,
            key=_seed("compensation", settings.compensation),
            help="What makes up for the cut: nothing, a bias (the mean of what went), or a least-"
            "squares refit of the output projections. auto: what the criterion's authors use.",
        ),
        "propagation": st.selectbox(
            "Propagation",
            PROPAGATIONS,
            key=_seed("propagation", settings.propagation),
            help="dense scores every block on the dense model's activations; pruned on those that "
            "the blocks already pruned give it.",
        ),
        "protect_first": _blocks("Protect first blocks", "first", settings.protect_first),
        "protect_last": _blocks("Protect last blocks", "last", settings.protect_last),
        "round_to": st.selectbox(
            "Round FFN widths to", ROUND_TO, key=_seed("round", settings.round_to)
        ),
    }


def _blocks(label: str, name: str, value: int) -> int:
    return int(st.number_input(label, 0, None, step=1, key=_seed(name, value)))


def _preset_control(settings: Settings) -> None:
    """A choice of named settings. Choosing one fills the controls in; they stay free."""

    def choose() -> None:
        name = st.session_state["set-preset"]
        if name in PRESETS:
            write_settings(with_preset(read_settings()[0], PRESETS[name]))
        _forget_widgets()

    current = preset_in_use(settings)
    st.session_state["set-preset"] = current
    st.segmented_control(
        "Preset",
        tuple(PRESETS),
        key="set-preset",
        on_change=choose,
        width="stretch",
        help="  \n".join(f"**{preset.name}**: {preset.text}" for preset in PRESETS.values()),
    )


def _edited_plan(settings: Settings) -> None:
    """Say so where a plan edited by hand is in use, and offer to drop it."""

    def drop() -> None:
        write_settings(replace(read_settings()[0], source=""))

    if settings.source:
        st.info("A plan edited by hand is in use.", icon=":material/edit:")
        st.button("Back to the controls below", key="drop-plan", width="stretch", on_click=drop)


def _active_jobs() -> None:
    """What the worker is doing, on whichever page it was started."""
    if not worker().active():
        return

    @st.fragment(run_every=1.0)
    def panel() -> None:
        for job in worker().active():
            st.caption(f"⏳ {job.title} · {job.fraction:.0%}")

    panel()
