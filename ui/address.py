"""What the address of a page says of its forms, beside the settings; and the browser's Back.

A field that differs from what its form starts with stands there as `form.field`, so a link brings
it back. It counts when a page is entered by a link, or by Back and Forward: else the session's own
values do, which are then said in the address.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import streamlit as st
from streamlit.runtime.scriptrunner import get_script_run_ctx

from .job_log import Place

_FORMS, _PENDING, _PAGE = "address-forms", "address-pending", "page"
_PROBLEMS = "address-problems"
_ROOT = Path(__file__).resolve().parents[1]
_LONGEST = 1000
"""Characters of a field that an address still says."""

OPEN = "open"
"""With this in a link of our own the address counts, whatever the session has."""

VIEW = ("kind", "block", "number")
"""The head or channel that the page Close-up shows."""

Entries = dict[str, str]


def address_counts() -> bool:
    """Whether this run is for the browser's Back or Forward, or a link of our own that says
    `OPEN`: then the address counts, and not what the session has."""
    back = getattr(get_script_run_ctx(), "is_history_navigation", False)
    return bool(back) or OPEN in st.query_params


def this_page() -> str | None:
    """The file of the page that is shown, as `PAGES` has it; None for another script."""
    run = get_script_run_ctx()
    if run is None:
        return None
    page = run.pages_manager.get_pages().get(run.page_script_hash, {})
    file = Path(page.get("script_path") or run.main_script_path)
    name = f"pages/{file.name}" if file.parent.name == "pages" else file.name
    return name if (_ROOT / name).is_file() else None


def is_setting(name: str) -> bool:
    """Whether what an address says under a name is a setting, or means to be one."""
    return name not in VIEW and name != OPEN and "." not in name


def settings_said() -> Entries:
    """What the address says of settings."""
    return {name: text for name, text in st.query_params.items() if is_setting(name)}


def read_view() -> dict[str, str]:
    """What the address says of `VIEW`, as text."""
    return {name: st.query_params[name] for name in VIEW if name in st.query_params}


def write_view(view: Mapping[str, Any]) -> None:
    """Say the values of `VIEW` in the address."""
    wanted = {name: str(view[name]) for name in VIEW}
    if read_view() != wanted:
        st.query_params.update(wanted)


def here() -> Place | None:
    """The page that is shown, and what its address says."""
    page = this_page()
    return None if page is None else (page, st.query_params.to_dict())


def enter(*, back: bool) -> None:
    """Have forms take what the address says of them, when they are drawn next; of the page's forms
    on the way ``back`` also that it says nothing."""
    pending: dict[str, Entries] = {}
    if back:
        pending = {form: {} for form in _registered(_place())}
    for name, text in said_of_forms(st.query_params).items():
        form, _, field = name.partition(".")
        pending.setdefault(form, {})[field] = text
    st.session_state[_PENDING] = pending
    st.session_state[_PROBLEMS] = {}
    for form in pending:
        st.session_state.pop(kept_under(form), None)


def kept_under(form: str) -> str:
    """Where a session keeps the values of a form."""
    return f"{form}-form"


def said_of_forms(query: Mapping[str, str]) -> Entries:
    """What of an address is about forms."""
    return {name: query[name] for name in query if "." in name}


def register(form: str, defaults: Mapping[str, Any]) -> None:
    """Have the address say these fields from now on, where they differ from their defaults."""
    pages = st.session_state.setdefault(_FORMS, {})
    forms = pages.setdefault(_place(), {})
    forms[form] = {**forms.get(form, {}), **defaults}


def is_told(form: str) -> bool:
    """Whether the address counts for this form, and not what was before."""
    return form in st.session_state.get(_PENDING, {})


def told(form: str, defaults: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What the address says of these fields, each of which is given once; and what of it cannot be
    used, in sentences, as long as the page is shown."""
    texts, values = st.session_state.get(_PENDING, {}).get(form, {}), {}
    problems = st.session_state.setdefault(_PROBLEMS, {}).setdefault(form, [])
    for field in [name for name in texts if name in defaults]:
        text = texts.pop(field)
        try:
            values[field] = _read(text, defaults[field])
        except ValueError:
            problems.append(
                f"The address says {form}.{field}={text}, which cannot be used; it was left out."
            )
    return values, problems


def forms_said(page: str | None = None) -> Entries:
    """What an address is to say of the forms of a page, at first this one."""
    place = page or _place()
    pending = st.session_state.get(_PENDING, {}) if place == _place() else {}
    found = {f"{form}.{name}": each[name] for form, each in pending.items() for name in each}
    for form, defaults in _registered(place).items():
        kept = st.session_state.get(kept_under(form), {})
        for name, default in defaults.items():
            value = st.session_state.get(f"set-{form}-{name}", kept.get(name, default))
            if value != default and (text := _written(value, default)) is not None:
                found.setdefault(f"{form}.{name}", text)
    return found


def _place() -> str:
    return this_page() or st.session_state.get(_PAGE, "")


def _registered(place: str) -> dict[str, dict[str, Any]]:
    return st.session_state.get(_FORMS, {}).get(place, {})


def _written(value: Any, default: Any) -> str | None:
    """A value as text; None for one that no address says."""
    if isinstance(default, str):
        return value if isinstance(value, str) and 0 < len(value) <= _LONGEST else None
    try:
        text = json.dumps(value)
    except (TypeError, ValueError):
        return None
    return text if len(text) <= _LONGEST else None


def _read(text: str, default: Any) -> Any:
    """The inverse of `_written`. Raises ValueError."""
    if isinstance(default, str):
        return text
    value, kind = json.loads(text), type(default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind or (kind is list and not all(isinstance(one, str) for one in value)):
        raise ValueError(text)
    return value
