"""The pieces of a study, one by one: each has its share of the progress, and may fail by itself."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from ..errors import explain
from ..progress import Tracker

Piece = TypeVar("Piece")


def one_by_one(
    progress: Tracker,
    pieces: Sequence[Piece],
    measure: Callable[[Piece], Any],
    *,
    title: Callable[[Piece], str],
    may_fail: Callable[[Piece], bool],
    refused: Callable[[Piece, str], Any],
    details: bool = False,
) -> Iterator[Any]:
    """What ``measure`` makes of each of ``pieces``, or ``refused(piece, sentence)`` where that
    says why there is nothing.

    The progress says which piece it is by its ``title``, with ``details`` also how far that is.
    An error that is not the piece's own is raised: a bug, one of the run store (which has the
    system's error as its cause), and that of a piece which ``may_fail`` says all others rest on.
    """
    for index, piece in enumerate(pieces):
        words = _words(f"{title(piece)} ({index + 1} of {len(pieces)})", details=details)
        with progress.share(index, len(pieces), words):
            progress(0.0, "")
            try:
                result = measure(piece)
            except Exception as error:
                sentence = explain(error)
                own = error.__cause__ is None and may_fail(piece)
                if sentence is None or not own:
                    raise
                result = refused(piece, sentence)
        yield result


def _words(which: str, *, details: bool) -> Callable[[str], str]:
    """What is said of a piece, given what the piece says itself."""
    return lambda message: f"{which}: {message}" if details and message else which
