"""What may be chosen for a field of a spec, said once.

The options of the command line, the widgets of the pages, what an address may say, and what is
checked when a spec is made are all read from the `Setting` in the field's metadata.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any

from .errors import InputError, is_text, short

_LARGEST = 2**63 - 1  # of what a computer counts
_TYPES = {int: "a whole number", float: "a number", str: "a word"}


@dataclass(frozen=True)
class Setting:
    """What a field may be. Limits are those of a number.

    ``name`` is what it is called in a sentence ("The {name} is ..."), ``help`` says on the command
    line what it is, ``label`` and ``hint`` on a page. ``choices`` are all values there are;
    ``offered`` those that a page offers of more (of a number with a slider, its two ends).
    ``least`` and ``most`` belong to what is allowed, ``above`` and ``below`` do not. ``optional``:
    None is allowed, too. ``read`` raises InputError for what else cannot be had. ``flag``: the
    command line's option, where it is not the field's name.
    """

    name: str
    help: str = ""
    label: str = ""
    hint: str = ""
    choices: tuple = ()
    offered: tuple = ()
    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    step: float | None = None
    optional: bool = False
    read: Callable[[Any], Any] | None = None
    flag: str = ""

    def problem(self, value: Any, like: Any) -> str | None:
        """Why ``value`` cannot be had, in a sentence; None where it can. ``like`` is a value of
        the right type."""
        if value is None and self.optional:
            return None
        if self.choices and value not in self.choices:
            have = ", ".join(str(choice) for choice in self.choices if choice != "")
            return f"There is no {self.name} {short(repr(value))}; there are {have}."
        if isinstance(value, str) and not is_text(value):
            return f"The {self.name} is text in UTF-8, not {short(repr(value))}."
        kind = float if isinstance(like, float) else type(like)
        if kind in (int, float) and not self._holds(value, kind):
            return f"The {self.name} is {_TYPES[kind]}{self._limits()}, not {_said(value)}."
        try:
            if self.read is not None:
                self.read(value)
        except InputError as error:
            return str(error)
        return None

    def _holds(self, value: Any, kind: type) -> bool:
        if isinstance(value, bool) or not isinstance(value, Real if kind is float else int):
            return False
        inside = self.least is None or value >= self.least
        inside &= self.most is None or value <= self.most
        inside &= self.above is None or value > self.above
        inside &= self.below is None or value < self.below
        return inside and (abs(value) <= _LARGEST if kind is int else abs(value) < math.inf)

    def _limits(self) -> str:
        """The limits in words, as they stand behind "a number"."""
        if self.above is not None:
            end = "" if self.most is None else f", at most {self.most:g}"
            return f" above {self.above:g}{end}"
        if self.most is not None:
            return f" from {self.least:g} to {_number(self.most)}"
        if self.below is not None:
            return f" from {self.least:g} to below {_number(self.below)}"
        return "" if self.least is None else f", at least {self.least:g}"


def _said(value: Any) -> str:
    """``value`` in a sentence; a whole number beyond all bounds has too many digits for one."""
    if isinstance(value, int) and abs(value) > _LARGEST:
        return "one beyond 2^63"
    return str(value) if isinstance(value, (int, float)) else short(repr(value))


def _number(value: float) -> str:
    return "2^63 - 1" if value == _LARGEST else f"{value:g}"


def setting(default: Any, name: str, help: str = "", **facts: Any) -> Any:
    """A field of a spec with this default and what `Setting` says of it."""
    return field(default=default, metadata={"setting": Setting(name, help, **facts)})


def settings_of(spec: type) -> dict[str, Setting]:
    """The settings of a spec's fields, by the fields' names."""
    said = {one.name: one.metadata.get("setting") for one in fields(spec)}
    return {name: each for name, each in said.items() if each is not None}


def check(spec: Any) -> None:
    """Raise InputError where a field of ``spec``, a dataclass, is what its setting forbids."""
    defaults = {one.name: one.default for one in fields(spec)}
    for name, each in settings_of(type(spec)).items():
        like = 0 if defaults[name] is None else defaults[name]
        if problem := each.problem(getattr(spec, name), like):
            raise InputError(problem)


class Checked:
    """A base of specs: one that could not be used cannot be made. Raises InputError."""

    def __post_init__(self) -> None:
        check(self)


def parse_list(text: str, kind: Callable[[str], Any], name: str) -> tuple:
    """``text`` as values of type ``kind`` (str, int or float); nothing gives an empty list.

    Raises InputError, with ``name`` as what the list is of, for what is no such value.
    """
    if not text.strip():
        return ()
    values = []
    for word in text.split(","):
        try:
            if not word.strip():
                raise ValueError
            values.append(kind(word.strip()))
        except ValueError:
            raise InputError(
                f"In the list of {name}, {short(repr(text))}, {short(repr(word.strip()))} is not "
                f"{_TYPES[kind]}."
            ) from None
    return tuple(values)


def join_list(values: Iterable[Any]) -> str:
    """What `parse_list` reads."""
    return ",".join(str(value) for value in values)


@dataclass(frozen=True)
class Preset:
    """``values``: fields of `ScoreSpec` and `PlanSpec` by name; those not named stay free."""

    name: str
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "paper",
            "As each criterion's authors do it: for LLM-BIP no block protected, nothing "
            "compensated.",
            {
                "allocation": "auto",
                "protect_first": 0,
                "protect_last": 0,
                "compensation": "auto",
                "propagation": "dense",
            },
        ),
        Preset(
            "recommended",
            "What measured best here: FLAP's scores, the same widths in every block, the first "
            "block protected, least squares. Demo model, C4 calibration: WikiText-2 perplexity "
            "37.5 at 20 % and 102.6 at 50 % (dense 22.9), against 46.7 and 586 for the best of "
            "the criteria as published. That is of 64 samples of 512 tokens; of 256 samples it "
            "is 35.3 and 88.6.",
            {
                "criterion": "flap",
                "allocation": "uniform",
                "protect_first": 1,
                "protect_last": 0,
                "compensation": "least-squares",
                "propagation": "dense",
            },
        ),
        Preset(
            "slimgpt",
            "SlimGPT: its selection in groups, more from later blocks (logarithmic), least "
            "squares. Its authors calibrate on 256 samples of 2,048 tokens of C4 (--calibration c4 "
            "--samples 256 --seq-len 2048), and score each block behind those already pruned and "
            "refitted, where this scores all of them on the dense model.",
            {
                "criterion": "slimgpt",
                "allocation": "log",
                "protect_first": 0,
                "protect_last": 0,
                "compensation": "least-squares",
                "propagation": "dense",
            },
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset called ``name``; raises InputError with the known names."""
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]
