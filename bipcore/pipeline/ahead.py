"""The pieces of a study, made by several processes side by side before they are asked for."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from ..errors import explain
from ..models.processes import dealt, place
from ..store.outbox import keep
from ..store.runs import RunStore

Piece = TypeVar("Piece")


class Ahead(Generic[Piece]):
    """Makes the ``pieces`` of a study that are not stored, in rounds: each process some at a time,
    what they made being stored after every round. Does nothing in one process.

    ``make(owner, arguments)``, a function of a module, makes what is stored of a piece; the
    arguments are what ``pieces`` has for it. ``missing(piece)``: whether it is not stored.
    ``prepare(piece)`` makes before, with all processes, what several pieces read. ``weight(piece)``
    is how long it takes, in any unit.
    """

    def __init__(
        self,
        owner: Any,
        make: Callable[[Any, Any], Any],
        pieces: Mapping[Piece, Any],
        *,
        store: RunStore,
        missing: Callable[[Piece], bool],
        prepare: Callable[[Piece], None],
        weight: Callable[[Piece], float] = lambda piece: 1.0,
    ) -> None:
        self._owner, self._store, self._make, self._pieces = owner, store, make, pieces
        self._missing, self._prepare, self._weight = missing, prepare, weight
        self._left = list(pieces) if place().count > 1 else []
        self._failed: dict[Piece, Exception] = {}

    def __call__(self, piece: Piece) -> None:
        """See that a piece is stored; raises what making it raised. It is left alone where it was
        not made for another reason."""
        while piece in self._left:
            self._left = [one for one in self._left if one == piece or self._missing(one)]
            if not self._missing(piece):
                self._left.remove(piece)
                return
            self._round()
        if piece in self._failed:
            raise self._failed.pop(piece)

    def _round(self) -> None:
        """Make the heaviest piece that is left, and beside it others that take about as long."""
        queues = deal_out(self._left, self._weight, place().count)
        for queue in queues:
            for piece in list(queue):
                self._left.remove(piece)
                try:
                    self._prepare(piece)
                except Exception as error:
                    self._note(piece, error)
                    queue.remove(piece)
        arguments = [[self._pieces[piece] for piece in queue] for queue in queues]
        outcomes = dealt(self._owner, self._make, arguments)
        for outcome in outcomes:
            for parcel in outcome.made:
                keep(self._store, parcel)
        for sentence in dict.fromkeys(one for outcome in outcomes for one in outcome.warned):
            warnings.warn(sentence, stacklevel=2)
        for queue, outcome in zip(queues, outcomes, strict=True):
            for index, error in outcome.failed.items():
                self._note(queue[index], error)

    def _note(self, piece: Piece, error: Exception) -> None:
        """Keep the error of a piece until it is asked for; raise one that is not its own."""
        if error.__cause__ is not None or explain(error) is None:
            raise error
        self._failed[piece] = error


def deal_out(
    pieces: list[Piece], weight: Callable[[Piece], float], count: int
) -> list[list[Piece]]:
    """A queue of pieces for each of ``count`` processes, the heaviest first: none is much heavier
    than the heaviest piece. The order of equals is kept."""
    left = sorted(pieces, key=weight, reverse=True)
    most, queues = weight(left[0]), []
    for _ in range(count):
        queue: list[Piece] = []
        while left and (not queue or sum(map(weight, queue)) + weight(left[0]) <= most):
            queue.append(left.pop(0))
        queues.append(queue)
    return queues
