"""Where long work stands, kept in the run store so that it can go on after it was killed.

A journal keeps the steps of a search one by one; checkpoints keep the state of a training.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from ..errors import InputError
from .kinds import Kind, canonical, stored_as_it_is
from .runs import Made, RunStore


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
        steps: list[Sequence[Any]] = []
        while (kept := self._store.stored(STEPS, self._spec(len(steps)))) is not None:
            steps.append(kept)
        self._count = len(steps)
        return steps

    def add(self, step: Sequence[Any]) -> None:
        """Keep the step after the last."""
        self._store.get(STEPS, self._spec(self._count), lambda: list(step))
        self._count += 1

    def _spec(self, number: int) -> dict:
        return {"of": self._identity, "number": number}


STEPS: Kind[list] = Kind(
    "steps",
    "the steps of a search that was begun",
    version=3,
    write=lambda step: ({}, {"step": step}),
    read=lambda tensors, data: data["step"],
)
CHECKPOINTS = stored_as_it_is("checkpoints", "where a fine-tuning that was stopped stands", 3)


class Checkpoints:
    """The checkpoints of one run in a store; ``identity`` is what the run is a function of.

    Only the last is kept. It is written whole before the one before it goes. ``made`` says what a
    list tells of them (see `RunStore.get`).
    """

    def __init__(self, store: RunStore, identity: Any, made: Made = dict) -> None:
        self._store, self._identity, self._made = store, canonical(identity), made

    def steps(self) -> list[int]:
        """The steps at which there is a whole checkpoint of this run."""
        return sorted(spec["step"] for spec in self._specs() if spec["of"] == self._identity)

    def latest(self) -> tuple[dict[str, Tensor], dict] | None:
        """The tensors and the state of the last whole checkpoint; None where there is none."""
        for step in reversed(self.steps()):
            if (kept := self._store.stored(CHECKPOINTS, self._spec(step))) is not None:
                return kept
        return None

    def keep(self, step: int, tensors: dict[str, Tensor], state: dict) -> None:
        """Keep a checkpoint, then let those before it go."""
        self._store.get(CHECKPOINTS, self._spec(step), lambda: (tensors, state), self._made)
        for other in self.steps():
            if other != step:
                self._store.remove(CHECKPOINTS, self._spec(other))

    def clear(self) -> None:
        """Remove all of this run's."""
        for step in self.steps():
            self._store.remove(CHECKPOINTS, self._spec(step))

    def check_alone(self) -> None:
        """Raise InputError where the store has checkpoints of another run than this one."""
        for spec in self._specs():
            if spec["of"] != self._identity:
                raise InputError(
                    f"The checkpoint in {self._store.root} is of {self._other(spec['of'])}; give "
                    "another folder, or the settings it was made with."
                )

    def _other(self, of: Any) -> str:
        """What another run differs in."""
        said = {"model": "another model", "plan": "another plan"}
        for name, words in said.items():
            if not isinstance(of, dict) or of.get(name) != self._identity.get(name):
                return words
        return "a run with other settings"

    def _specs(self) -> list[dict]:
        specs = (entry.spec for entry in self._store.entries(CHECKPOINTS) if entry.whole)
        return [
            spec
            for spec in specs
            if isinstance(spec, dict) and "of" in spec and isinstance(spec.get("step"), int)
        ]

    def _spec(self, step: int) -> dict:
        return {"of": self._identity, "step": step}
