"""What takes long starts when it is asked for: until then a page says what it would be."""

from collections.abc import Callable, Collection

import streamlit as st

_ASKED = "asked-for"


def asked_for(keys: Collection[str]) -> bool:
    """Whether all of these were asked for in this session."""
    return set(keys) <= st.session_state.get(_ASKED, set())


def ask_for(keys: Collection[str]) -> None:
    """Remember that these were asked for."""
    st.session_state[_ASKED] = st.session_state.get(_ASKED, set()) | set(keys)


def offer(
    keys: Collection[str], said: str, label: str, takes: Callable[[], None] = lambda: None
) -> None:
    """Go on where these were asked for; else say what is missing, what it ``takes``, and offer it
    by a button called ``label``, and end the page."""
    if asked_for(keys):
        return
    st.info(said)
    takes()
    st.button(label, type="primary", key=f"ask-{label}", on_click=ask_for, args=(keys,))
    st.stop()
