"""The pages, in the groups of what one comes for, and the links to them."""

from collections.abc import Mapping
from urllib.parse import urlencode

import streamlit as st
from streamlit.errors import StreamlitAPIException

from .address import OPEN, forms_said, settings_said
from .job_log import Place

GROUPS = {
    "Look": (
        ("app.py", "Overview", ":material/home:"),
        ("pages/scores.py", "Scores", ":material/bar_chart:"),
        ("pages/closeup.py", "Close-up", ":material/zoom_in:"),
        ("pages/compare.py", "Compare", ":material/compare_arrows:"),
    ),
    "Decide": (
        ("pages/plan.py", "Plan", ":material/edit:"),
        ("pages/budget.py", "Budget", ":material/savings:"),
    ),
    "Measure": (
        ("pages/reconstruction.py", "Reconstruction", ":material/show_chart:"),
        ("pages/changes.py", "What changed", ":material/difference:"),
        ("pages/sweep.py", "Sweep", ":material/stacked_line_chart:"),
        ("pages/zero_shot.py", "Zero-shot", ":material/quiz:"),
        ("pages/generate.py", "Generate", ":material/chat:"),
    ),
    "Win back and ship": (
        ("pages/recover.py", "Recover", ":material/healing:"),
        ("pages/export.py", "Export", ":material/download:"),
    ),
    "Keep track": (
        ("pages/runs.py", "Runs", ":material/inventory_2:"),
        ("pages/paper.py", "Paper", ":material/menu_book:"),
    ),
}
PAGES = tuple(page for group in GROUPS.values() for page in group)


def show_pages() -> None:
    """Links to all pages, two in a row, so that what is below them is seen without scrolling."""
    with st.container(gap="xxsmall"):
        for name, pages in GROUPS.items():
            st.caption(f"**{name}**")
            for first in range(0, len(pages), 2):
                for column, page in zip(
                    st.columns(2, gap=None), pages[first : first + 2], strict=False
                ):
                    with column:
                        page_link(*page)


def link_back(place: Place, label: str) -> None:
    """A link to where something was asked for, with the settings and forms that were there."""
    path, said = place
    _link(path, label, None, {**said, OPEN: "1"})


def page_link(
    path: str, label: str, icon: str | None = None, view: Mapping[str, str] | None = None
) -> None:
    """A link to another page; ``view`` is what the address is to say besides the settings and what
    the page has in its forms.

    It says all that the page itself would, so that the page has nothing to add: a change of page is
    one step back.
    """
    _link(path, label, icon, settings_said() | forms_said(path) | (view or {}))


def _link(path: str, label: str, icon: str | None, said: Mapping[str, str]) -> None:
    try:
        st.page_link(path, label=label, icon=icon, query_params=said)
    except StreamlitAPIException:  # this page is run alone, not from app.py
        address = "" if path == "app.py" else path.removeprefix("pages/").removesuffix(".py")
        asked = f"?{urlencode(said)}" if said else ""
        st.markdown(f"{icon or ''} [{label}](/{address}{asked})")
