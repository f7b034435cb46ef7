"""What a page of another site may do: link to this app, and so show settings.

Whatever they name is not touched until a button is pressed, and within a frame there is none.

Who opens a link has not chosen what it says: a model to fetch, a file to read, an hour of work. The
settings of a session that has pressed the button are its user's own, and so are those that any
session of this server used before: a reload starts where it was.
"""

import threading
from collections import OrderedDict
from dataclasses import fields
from urllib.parse import urlencode, urlsplit

import streamlit as st

from bipcore.errors import short

from .address import Entries
from .settings import SETTINGS, Settings

_PRESSED = "link-pressed"
_COOKIE = "_streamlit_xsrf"
_MOST = 1024  # settings that are remembered

_lock = threading.Lock()
_used: OrderedDict[tuple[Settings, frozenset], None] = OrderedDict()


def unframed() -> None:
    """End the page where it is shown within a page of another site: what is pressed there may not
    be what is meant.

    Streamlit sends no header that forbids it. But the cookie of its own pages is one that browsers
    keep back in frames of other sites (``xsrfCookieSameSite`` in .streamlit/config.toml).
    """
    guarded = st.get_option("server.enableXsrfProtection")
    if guarded and st.context.headers and _COOKIE not in st.context.cookies:
        st.error(
            "This page is shown within a page of another site, or its cookies are blocked. Open "
            "its address in a tab of its own."
        )
        st.stop()


def admit(settings: Settings, forms: Entries, *, pressed: bool) -> None:
    """Go on where the settings are the user's, and what is said of ``forms``; else show them with
    a button, and end the page.

    ``pressed``: whether a button that takes settings over was.
    """
    if pressed or _own(settings, forms):
        _remember(settings, forms)
        return
    st.info(
        "The address of this page brings settings of its own. Nothing of what they name has been "
        "looked for, read or loaded yet.",
        icon=":material/link:",
    )
    st.code(_said(settings, forms), language=None, wrap_lines=True)
    if st.button("Load and score", key="load-link", type="primary"):
        _remember(settings, forms)
        st.rerun()
    st.stop()


def adopt(settings: Settings) -> None:
    """Take settings that the user chose with a button for the user's own (see `admit`)."""
    _remember(settings, {})


def _own(settings: Settings, forms: Entries) -> bool:
    if st.session_state.get(_PRESSED) or (settings == Settings() and not forms):
        return True
    with _lock:
        return (settings, frozenset(forms.items())) in _used


def _remember(settings: Settings, forms: Entries) -> None:
    st.session_state[_PRESSED] = True
    used = settings, frozenset(forms.items())
    with _lock:
        _used[used] = None
        _used.move_to_end(used)
        while len(_used) > _MOST:
            _used.popitem(last=False)


def forget_all() -> None:
    """Take no settings for the user's but the defaults, as a new server does."""
    with _lock:
        _used.clear()


def show_link() -> None:
    """The address of what is shown, to copy; without a browser there is none."""
    if not (address := st.context.url):
        return
    place = urlsplit(address)
    place = place._replace(path=place.path or "/", query=urlencode(st.query_params.to_dict()))
    with st.expander("Link to this view", icon=":material/link:"):
        st.code(place.geturl(), language=None, wrap_lines=True)
        st.caption(
            "It names settings, and what stands in the forms, no results: who opens it computes or "
            "reads their own."
        )


def _said(settings: Settings, forms: Entries) -> str:
    """What differs from the defaults, one setting a line, and what stands in forms."""
    default = Settings()
    values = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    lines = [
        f"{SETTINGS[name].name}: {short(value, 500)}"
        for name, value in values.items()
        if value != getattr(default, name)
    ]
    return "\n".join([*lines, *(f"{name}: {short(text, 500)}" for name, text in forms.items())])
