"""How far long work is, said to a callable that it is given: ``progress(fraction, message)``."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Progress = Callable[[float, str], None]
Words = Callable[[str], str]
"""Makes the message of a whole of that of a part."""


def silent(fraction: float, message: str) -> None:
    """The progress callable that does nothing."""


class Tracker:
    """A progress callable that never goes back, and knows which part of the whole is being done.

    Within `within`, fractions from 0 to 1 are those of a part:

        with progress.within(0.2, 0.5):
            collect_statistics(model, calibration, progress=progress)

    What ``report`` raises goes through, which is how work is cancelled.
    """

    def __init__(self, report: Progress | None = None) -> None:
        self._start, self._width = 0.0, 1.0
        self._words: tuple[Words, ...] = ()
        self.report_to(report)

    def report_to(self, report: Progress | None) -> None:
        """Say it to ``report`` from now on, from 0 on."""
        self._report, self._reached = report or silent, 0.0

    @property
    def bounds(self) -> tuple[float, float]:
        """From where to where the part goes that is being done, 0 to 1 outside of any."""
        return self._start, self._start + self._width

    def __call__(self, fraction: float, message: str) -> None:
        for words in reversed(self._words):
            message = words(message)
        done = self._start + self._width * fraction
        self._reached = max(self._reached, min(done, 1.0))
        self._report(self._reached, message)

    @contextmanager
    def within(self, start: float, end: float, words: Words | None = None) -> Iterator["Tracker"]:
        """What is done within it is the part from ``start`` to ``end``, its messages changed by
        ``words``."""
        before = self._start, self._width, self._words
        self._start, self._width = self._start + self._width * start, self._width * (end - start)
        self._words = (*self._words, words) if words else self._words
        try:
            yield self
        finally:
            self._start, self._width, self._words = before

    def share(self, index: int, count: int, words: Words | None = None):
        """`within` the part ``index``, from 0, of ``count`` equal ones."""
        return self.within(index / count, (index + 1) / count, words)


def tracked(progress: Progress | None) -> Tracker:
    """``progress`` as a `Tracker`: itself where it is one."""
    return progress if isinstance(progress, Tracker) else Tracker(progress)
