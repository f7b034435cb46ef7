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

from .results import error_box, need_scores
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
    are not stored. A plan edited by hand does not count here."""
    own = replace(settings, source="")
    return {name: need_scores(replace(own, criterion=name)) for name in names}


def compared(settings: Settings, scored: Scored) -> pd.DataFrame:
    """The frame of `compare_criteria`, kept in memory once computed."""
    with error_box():
        asked = asdict(replace(settings, source="", criterion=""))
        key = digest([asked, settings.model_spec.identity(), list(scored)])
        return _compared(key, scored)


@st.cache_resource(max_entries=16, show_spinner=False)
def _compared(key: str, _scored: Scored) -> pd.DataFrame:
    return compare_criteria(_scored)
