"""The steps of a long search, kept one by one so that it can go on where it was stopped."""

from collections.abc import Sequence
from typing import Any, Protocol

from .runs import RunStore


class Journal(Protocol):
    """Where steps are kept: plain JSON lists, in their order."""

    def entries(self) -> list[Sequence[Any]]:
        """The steps taken so far."""

    def add(self, step: Sequence[Any]) -> None:
        """Keep one more."""


class StoredJournal:
    """A journal in the run store; ``identity`` is what its steps are a function of."""

    def __init__(self, store: RunStore, identity: Any) -> None:
        self._store, self._identity = store, identity
        self._count = 0

    def entries(self) -> list[Sequence[Any]]:
        """The steps up to the first that is missing."""
        steps = []
        while self._store.find("steps", self._spec(len(steps))) is not None:
            steps.append(self._store.json("steps", self._spec(len(steps)), dict)["step"])
        self._count = len(steps)
        return steps

    def add(self, step: Sequence[Any]) -> None:
        """Keep the step after the last."""
        self._store.json("steps", self._spec(self._count), lambda: {"step": list(step)})
        self._count += 1

    def _spec(self, number: int) -> dict:
        return {"of": self._identity, "number": number}
