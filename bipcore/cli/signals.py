"""SIGTERM ends a command as Ctrl-C does: what is unfinished is removed first."""

import functools
import signal
import threading
from collections.abc import Callable

TERMINATED = 128 + signal.SIGTERM
"""The exit status of a command that was ended so."""


def terminable(command: Callable[..., int]) -> Callable[..., int]:
    """``command``, in which SIGTERM raises KeyboardInterrupt, and which then gives `TERMINATED`.

    A second one ends the process at once. Nothing is changed where the signal is handled, or
    ignored, by whoever started this, nor in another thread than the main one.
    """

    @functools.wraps(command)
    def run(*arguments, **options) -> int:
        asked = threading.Event()

        def end(*_) -> None:
            asked.set()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            raise KeyboardInterrupt

        is_main = threading.current_thread() is threading.main_thread()
        if not is_main or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return command(*arguments, **options)
        signal.signal(signal.SIGTERM, end)
        try:
            status = command(*arguments, **options)
        finally:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        return TERMINATED if asked.is_set() else status

    return run
