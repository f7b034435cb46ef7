"""Progress is a callable that long computations are given: ``progress(fraction, message)``."""

from collections.abc import Callable

Progress = Callable[[float, str], None]


def silent(fraction: float, message: str) -> None:
    """The progress callable that does nothing."""


def part(progress: Progress | None, start: float, end: float) -> Progress:
    """A callable that maps 0..1 onto start..end of ``progress``."""
    outer = progress or silent
    return lambda fraction, message: outer(start + (end - start) * fraction, message)
