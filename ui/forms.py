"""Forms whose values outlive a change of page, and a reload where they were started.

Streamlit forgets a widget that a page did not draw. So the values are kept apart from the
widgets, and a widget that is new on the page is given its value.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Any, TypeVar

import streamlit as st

from bipcore.errors import InputError

from . import address
from .words import paragraphs, plain

_Spec = TypeVar("_Spec")


class Form:
    """The values of one form by the names of its fields; every field that is drawn updates them.

    ``values``: what the form starts with. ``help``: of those fields that have any. ``group``: of
    those in it, e.g. of one model, a new session starts with the form that was started last.
    ``unsaid``: fields that the address says in another way, or not at all.
    """

    def __init__(
        self,
        name: str,
        values: Mapping[str, Any],
        help: Mapping[str, str] | None = None,
        *,
        group: Hashable = None,
        unsaid: Iterable[str] = (),
    ):
        self.name = name
        self.group = group
        self._help = help or {}
        self._start = dict(values)
        self._kept = address.kept_under(name)
        started = {} if address.is_told(name) else last_forms().get((name, group), {})
        before = st.session_state.get(self._kept, started)
        said = {field: value for field, value in values.items() if field not in tuple(unsaid)}
        told, problems = address.told(name, said)
        self.values = st.session_state[self._kept] = {**values, **before, **told}
        address.register(name, said)
        for problem in problems:
            st.error(plain(problem))

    def field(self, widget: Callable[..., Any], label: str, name: str, *args, **options) -> Any:
        """What the streamlit ``widget`` says; ``args`` and ``options`` are those of the widget."""
        options["help"] = options.get("help", self._help.get(name))
        self.values[name] = _fitting(self.values[name], self._start[name], args, options)
        drawn = seeded(widget, label, f"{self.name}-{name}", self.values[name], *args, **options)
        self.values[name] = drawn
        return self.values[name]

    def number(self, place, label: str, name: str, least, most=None, *, step=1, **options) -> None:
        """A field for a number from ``least`` to ``most``; a whole one where ``least`` is."""
        bounds = {"min_value": least, "max_value": most, "step": step}
        value = self.field(place.number_input, label, name, **bounds, **options)
        self.values[name] = type(least)(value)

    def choice(self, place, label: str, name: str, options: Iterable[str], *, empty: str) -> None:
        """One of ``options``, or what is typed; ``empty`` where that is nothing."""
        known = _with(options, [self.values[name]])
        said = self.field(place.selectbox, label, name, known, accept_new_options=True)
        self.values[name] = said or empty

    def choices(self, place, label: str, name: str, options: Iterable[str]) -> None:
        """Some of ``options``, and what is typed."""
        known = _with(options, self.values[name])
        self.field(place.multiselect, label, name, known, accept_new_options=True)

    def fill(self, values: Mapping[str, Any]) -> None:
        """Set fields from outside, in the callback of a button."""
        st.session_state[self._kept] |= values
        for name in values:
            st.session_state.pop(f"set-{self.name}-{name}", None)

    def start_row(
        self,
        read: Callable[[dict[str, Any]], _Spec],
        note: Callable[[_Spec], str],
        *,
        help: Callable[[_Spec], str | None] = lambda _: None,
    ) -> tuple[_Spec | None, bool]:
        """The button Start with a note on what it starts; the spec that ``read`` makes of the
        values, and whether Start was pressed. The spec is None where ``read`` or ``note`` raises
        InputError: then there is an error box, and nothing can be started."""
        try:
            spec = read(self.values)
            caption = note(spec)
        except InputError as error:
            st.error(plain(error))
            spec = None
        left, right = st.columns([1, 4], vertical_alignment="center")
        look = {"type": "primary", "width": "stretch", "disabled": spec is None}
        pressed = left.button("Start", key=f"{self.name}-start", **look)
        if spec is not None:
            said = help(spec)
            right.caption(plain(caption), help=said and paragraphs(said))
        if pressed and self.group is not None:
            last_forms()[self.name, self.group] = dict(self.values)
        return spec, pressed


@st.cache_resource(show_spinner=False)
def last_forms() -> dict[tuple[str, Hashable], dict[str, Any]]:
    """The values of the forms that were started last, by name and group."""
    return {}


def seeded(
    widget: Callable[..., Any], label: str, name: str, value: Any, *args: Any, **options: Any
) -> Any:
    """What the streamlit ``widget`` called ``name`` says: ``value`` where it is new. ``args`` and
    ``options`` are the widget's own.

    It is told its value twice. What stands under its key counts, but the browser is told of that
    only in the run in which it is set: where another run overtakes that one before the browser has
    drawn the widget, it draws it with its default, and takes that for what the user chose. So the
    default is the value, too. `begin` forgets keys that start so at every change of page.
    """
    key = f"set-{name}"
    if key not in st.session_state:
        st.session_state[key] = value
    return widget(label, *args, key=key, **_default(widget.__name__, value, args), **options)


def _default(kind: str, value: Any, args: tuple) -> dict[str, Any]:
    """The argument of a kind of widget that says its default."""
    if kind == "selectbox":
        choices = list(args[0])
        return {"index": choices.index(value)} if value in choices else {}
    if kind == "multiselect":
        return {"default": [one for one in value if one in args[0]]}
    return {"value": value}


def _fitting(value: Any, start: Any, args: tuple, options: Mapping[str, Any]) -> Any:
    """``value`` where the widget can have it, else what of it can be, or what the form starts with:
    an address may say anything, and what there is to choose may be another than before."""
    if "min_value" in options:
        least, most = options["min_value"], options.get("max_value")
        return value if least <= value and (most is None or value <= most) else start
    if not args or options.get("accept_new_options"):
        return value
    if isinstance(value, list):
        return [one for one in value if one in args[0]]
    return value if value in args[0] else start


def _with(options: Iterable[str], chosen: Iterable[str]) -> list[str]:
    """``options`` and what of ``chosen`` is not among them, which was typed before."""
    return list(dict.fromkeys((*options, *chosen)))
