"""What the worker keeps in memory: a line in the sidebar, and a button to let it go."""

import streamlit as st

from bipcore.evaluation.workload import said_size
from bipcore.models.devices import resolve_device

from .jobs import worker
from .words import plain
from .work import let_go

_KEY = "let-go"


def show_kept() -> None:
    """The models in memory and what they take of what they may; nothing where there are none."""
    held = worker().held
    if not held.names:
        return
    device = resolve_device("auto")
    size, budget = said_size(held.bytes(device)), said_size(held.budget(device))
    st.caption(plain(f"In memory ({device}): {size} of {budget}: {', '.join(held.names)}"))
    st.button(
        "Let them go",
        key=_KEY,
        width="stretch",
        on_click=_let_go,
        help="Frees the memory, once the work before it is done. What is asked for again is "
        "loaded again.",
    )


def _let_go() -> None:
    worker().forget(_KEY)
    worker().submit(_KEY, "Letting models go", let_go)
