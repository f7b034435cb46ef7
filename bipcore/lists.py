"""Lists of values as people type them: words with commas between."""

from collections.abc import Callable, Iterable
from typing import Any

from .errors import InputError

_KINDS = {int: "a whole number", float: "a number", str: "a word"}


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
                f"In the list of {name}, {text!r}, {word.strip()!r} is not {_KINDS[kind]}."
            ) from None
    return tuple(values)


def join_list(values: Iterable[Any]) -> str:
    """What `parse_list` reads."""
    return ",".join(str(value) for value in values)
