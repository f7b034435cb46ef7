"""The words of a command line that say given specs, so that a step can be repeated by itself."""

import shlex
from dataclasses import fields
from typing import Any

from ..settings import join_list, settings_of
from ..specs import ModelSpec, ScoreSpec

_EVERYTHING = {"max_tokens": 0}
"""What says None of a setting whose default is a number."""


def words_of(*specs: Any) -> list[str]:
    """The options that differ from the defaults, for specs without a model's name."""
    return [word for spec in specs for word in _options(spec)]


def words_of_scores(score: ScoreSpec) -> list[str]:
    """The model and what it is calibrated on, without the criterion."""
    return [score.model.name, *words_of(score.model, score.calibration)]


def command(*words: str) -> str:
    """A line for a shell, continued where it is long."""
    lines, line = [], "bipcore"
    for word in words:
        quoted = shlex.quote(str(word))
        if word.startswith("--") and len(line) > 80:
            lines.append(line)
            line = " "
        line = f"{line} {quoted}"
    return " \\\n".join([*lines, line])


def _options(spec: Any) -> list[str]:
    words = []
    for one in fields(spec):
        each, value = settings_of(type(spec)).get(one.name), getattr(spec, one.name)
        is_name = isinstance(spec, ModelSpec) and one.name == "name"
        if each is None or is_name or value == one.default:
            continue
        if value is None:
            value = _EVERYTHING[one.name]
        said = join_list(value) if isinstance(value, tuple) else str(value)
        words += [each.flag or f"--{one.name.replace('_', '-')}", said]
    return words
