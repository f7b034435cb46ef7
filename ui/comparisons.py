"""The scores and plans of several criteria, compared."""

from collections.abc import Sequence
from dataclasses import asdict, replace

import pandas as pd
import streamlit as st

from bipcore.criteria import COMPARED, CRITERIA, Scores
from bipcore.errors import listed
from bipcore.pruning.comparison import compare_criteria
from bipcore.pruning.plan import PruningPlan
from bipcore.store.kinds import digest

from .asking import offer
from .estimates import job_of, show_line
from .results import error_box, need_scores, stored_plan_of
from .settings import Settings

_WIDGET, _CHOSEN = "compare-criteria", "compared"

Scored = dict[str, tuple[Scores, PruningPlan]]


def title_of(name: str) -> str:
    """The name of a criterion for people."""
    return CRITERIA[name].title


def choose_criteria() -> list[str]:
    """A choice of criteria that outlives a change of page."""
    if _WIDGET not in st.session_state:
        st.session_state[_WIDGET] = st.session_state.get(_CHOSEN, list(COMPARED))
    chosen = st.multiselect("Criteria", tuple(CRITERIA), key=_WIDGET, format_func=title_of)
    st.session_state[_CHOSEN] = chosen
    st.caption(
        "Those that read activations share one forward pass over the calibration text. "
        f"{_titles('passes')} take one or two of their own; {_titles('second moments')} share "
        f"one with least squares; {_titles('gradients')} (gradients) and {_titles('search')} "
        "(a search) take longer."
    )
    return chosen


def _titles(needs: str) -> str:
    return listed(one.title for one in CRITERIA.values() if one.needs == needs)


def need_scored(settings: Settings, names: Sequence[str]) -> Scored:
    """Scores and plan of every criterion at the sidebar's settings, computed first where they
    are not stored, once that is asked for. A plan edited by hand does not count here."""
    own = {name: replace(settings, source="", criterion=name) for name in names}
    missing = [name for name in names if stored_plan_of(own[name]) is None]
    if missing:
        keys = [digest([asdict(own[name]), settings.model_spec.identity()]) for name in missing]
        said = f"Not scored yet: {listed(map(title_of, missing))}. What is scored once is stored."

        def takes() -> None:
            for name in missing:
                show_line(job_of(own[name], "score"), title_of(name))

        offer(keys, said, "Score them", takes)
    return {name: need_scores(each) for name, each in own.items()}


def compared(settings: Settings, scored: Scored) -> pd.DataFrame:
    """The frame of `compare_criteria`, kept in memory once computed."""
    with error_box():
        asked = asdict(replace(settings, source="", criterion=""))
        key = digest([asked, settings.model_spec.identity(), list(scored)])
        return _compared(key, scored)


@st.cache_resource(max_entries=16, show_spinner=False)
def _compared(key: str, _scored: Scored) -> pd.DataFrame:
    return compare_criteria(_scored)
