"""Kinds of stored results, and the digests that they are found by.

A kind is declared beside what it stores, and listed in `bipcore.kinds`.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Generic, TypeVar

from torch import Tensor

Result = TypeVar("Result")
Stored = tuple[dict[str, Tensor], dict]
"""A result as it lies in the store: tensors by name, and plain JSON data."""

VERSION = 2
"""That of every digest, unless a kind has another."""


@dataclass(frozen=True)
class Kind(Generic[Result]):
    """One kind of stored result.

    ``name``: its folder in the run store. ``holds``: what that is, for people. ``version``: raised
    when results of this kind come to mean something else; it is part of their digests, so that
    older ones are not found any more. ``write`` gives tensors and plain data, ``read`` takes them;
    by default the result is a dictionary of plain data.
    """

    name: str
    holds: str = ""
    version: int = VERSION
    write: Callable[[Result], Stored] = lambda result: ({}, result)
    read: Callable[[dict[str, Tensor], dict], Result] = lambda tensors, data: data


def stored_as_it_is(name: str, holds: str = "", version: int = VERSION) -> Kind[Stored]:
    """A kind whose results are tensors and plain data already."""
    return Kind(name, holds, version, write=lambda result: result, read=lambda *stored: stored)


def canonical(spec: Any) -> Any:
    """``spec`` (dataclasses and plain data) as plain JSON types."""
    return json.loads(json.dumps(spec, sort_keys=True, default=asdict))


def digest(spec: Any, *, version: int = VERSION) -> str:
    """16 hexadecimal digits that identify a spec."""
    text = json.dumps([version, canonical(spec)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def is_digest(name: str) -> bool:
    """Whether ``name`` is one that `digest` may give."""
    return re.fullmatch("[0-9a-f]{16}", name) is not None
