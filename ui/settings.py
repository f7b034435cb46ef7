"""What the user has chosen, for all pages: kept in the session and said in the address.

The address names only what differs from the defaults, so a link or a reload brings it back.
"""

import re
from collections.abc import Mapping
from dataclasses import fields, make_dataclass, replace
from typing import Any

import streamlit as st

from bipcore.criteria import CRITERIA
from bipcore.settings import PRESETS, Preset, Setting, settings_of
from bipcore.specs import CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec

from . import address

_KEY = "settings"
_PROBLEMS = "settings-problems"
_SPECS = (
    (ModelSpec, {"name": "model"}),
    (CalibrationSpec, {"source": "text"}),
    (ScoreSpec, {}),
    (PlanSpec, {}),
)
"""The specs whose fields are settings of the pages, and what some of them are called here."""

SETTINGS: dict[str, Setting] = {
    names.get(name, name): each
    for spec, names in _SPECS
    for name, each in settings_of(spec).items()
}
"""What each setting may be, as its spec says."""

_DEFAULTS = {
    names.get(field.name, field.name): field.default
    for spec, names in _SPECS
    for field in fields(spec)
    if field.name in settings_of(spec)
}
_Flat = make_dataclass(
    "_Flat", [(name, type(value), value) for name, value in _DEFAULTS.items()], frozen=True
)


class Settings(_Flat):
    """Flat, a field for every one of `SETTINGS`; the specs are made from it."""

    @property
    def model_spec(self) -> ModelSpec:
        return ModelSpec(self.model, self.device, self.dtype, self.memory)

    @property
    def score_spec(self) -> ScoreSpec:
        names = ("samples", "seq_len", "seed", "text_field", "beginning")
        said = {name: getattr(self, name) for name in names}
        calibration = CalibrationSpec(self.text, **said)
        return ScoreSpec(self.model_spec, calibration, self.criterion)

    @property
    def plan_spec(self) -> PlanSpec:
        return PlanSpec(**{field.name: getattr(self, field.name) for field in fields(PlanSpec)})


def with_preset(settings: Settings, preset: Preset) -> Settings:
    """``settings`` with the values of a preset, on a plan of the app's own choosing."""
    return replace(settings, source="", **preset.values)


def preset_in_use(settings: Settings) -> str | None:
    """The name of the preset whose values the settings have, None where they are the user's."""
    for preset in PRESETS.values():
        if with_preset(settings, preset) == settings:
            return preset.name
    return None


def read_settings() -> tuple[Settings, list[str]]:
    """The session's settings, at first those of the address; and what in it could not be used,
    until the settings change."""
    if _KEY in st.session_state:
        return st.session_state[_KEY], st.session_state.get(_PROBLEMS, [])
    settings, problems = from_query(st.query_params)
    st.session_state[_PROBLEMS] = problems
    return settings, problems


def return_to_address() -> None:
    """Take the settings of the address for those of the session."""
    st.session_state.pop(_KEY, None)
    st.session_state[_KEY], st.session_state[_PROBLEMS] = read_settings()


def write_settings(settings: Settings) -> None:
    """Keep the settings in the session and in the address."""
    if st.session_state.get(_KEY, settings) != settings:
        st.session_state[_PROBLEMS] = []
    st.session_state[_KEY] = settings
    wanted = to_query(settings) | address.read_view() | address.forms_said()
    if dict(st.query_params) != wanted:
        st.query_params.from_dict(wanted)


def to_query(settings: Settings) -> dict[str, str]:
    """What differs from the defaults, as text."""
    default = Settings()
    values = {field.name: getattr(settings, field.name) for field in fields(Settings)}
    return {name: str(v) for name, v in values.items() if v != getattr(default, name)}


def from_query(query: Mapping[str, str]) -> tuple[Settings, list[str]]:
    """The inverse of `to_query`; what is unknown or malformed is named and left at its default."""
    settings, problems = Settings(), []
    kinds = {field.name: type(getattr(settings, field.name)) for field in fields(Settings)}
    for name, text in query.items():
        if not address.is_setting(name):
            continue
        if name not in kinds:
            problems.append(f"The address names a setting {name!r} that does not exist.")
            continue
        try:
            value = kinds[name](text)
            usable = _usable(name, value)
        except ValueError:
            usable = False
        if usable:
            settings = replace(settings, **{name: value})
        else:
            problems.append(
                f"The address says {name}={text}, which cannot be used; it was left out."
            )
    return settings, problems


def _usable(name: str, value: Any) -> bool:
    """Whether the pages can work with a value that an address says."""
    each = SETTINGS[name]
    if each.problem(value, _DEFAULTS[name]):
        return False
    if name == "criterion":
        return value in CRITERIA
    if name == "source":
        return re.fullmatch("[0-9a-f]{16}|", value) is not None
    if each.offered and isinstance(value, float):
        return each.offered[0] <= value <= each.offered[-1]
    if each.offered and isinstance(value, int):
        return value in each.offered
    return value != ""
