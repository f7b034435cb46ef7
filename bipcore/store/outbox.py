"""The run store of a process that leaves the writing to another one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .kinds import Kind, Result, Stored, canonical, stored_as_it_is
from .runs import Made, RunStore, timed


@dataclass(frozen=True, eq=False)
class Parcel:
    """One result on its way to the store: its kind's name and version, its spec as plain data, and
    what lies in the store of it, and how it was made."""

    kind: str
    version: int
    spec: Any
    stored: Stored
    made: Mapping[str, Any]


class Outbox(RunStore):
    """A run store that is read, and never written or put in order: what would be stored waits here
    until it is handed over."""

    def __init__(self, root: Path | str | None = None) -> None:
        super().__init__(root)
        self._waiting: dict[Path, Parcel] = {}

    def get(
        self,
        kind: Kind[Result],
        spec: Any,
        compute: Callable[[], Result],
        made: Made = dict,
    ) -> Result:
        """The stored result of ``spec``, one that waits, or that of ``compute()``, which will."""
        result, path = self.stored(kind, spec), self.path(kind, spec)
        if result is not None:
            return result
        if path not in self._waiting:
            result, facts = timed(compute, made)
            said = canonical(spec), kind.write(result), facts
            self._waiting[path] = Parcel(kind.name, kind.version, *said)
        return kind.read(*self._waiting[path].stored)

    def folder(
        self, kind: Kind, spec: Any, build: Callable[[Path], None], made: Mapping | None = None
    ) -> Path:
        """The entry's folder; raises InputError where there is none."""
        found = self.find(kind, spec)
        if found is None:
            raise InputError(
                f"The run store {self.root} does not hold the {kind.holds or kind.name} that the "
                "main process has stored; all processes need the same store, and nobody may clear "
                "it meanwhile."
            )
        return found

    def hand_over(self) -> list[Parcel]:
        """What waits, which is let go of."""
        waiting, self._waiting = self._waiting, {}
        return list(waiting.values())

    def _set_aside(self, path: Path, reason: str) -> None:
        """Leave it where it is, for the process that writes."""


def keep(store: RunStore, parcel: Parcel) -> None:
    """Store what an `Outbox` handed over."""
    kind = stored_as_it_is(parcel.kind, version=parcel.version)
    store.get(kind, parcel.spec, lambda: parcel.stored, lambda: parcel.made)
