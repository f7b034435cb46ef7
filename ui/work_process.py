"""The worker's process: it does what comes through a pipe, and says how it goes.

`python -m ui.work_process DESCRIPTOR`, started by `engines.py` with a socket under that number. It
ends when the server does.
"""

import logging
import os
import signal
import sys
import time
from functools import cache
from queue import SimpleQueue
from threading import Event, Thread
from typing import Any

from bipcore.errors import Cancelled, explain
from bipcore.pipeline.kept import Kept
from bipcore.pipeline.pipeline import Pipeline

from . import work as _ready  # noqa: F401  what comes is of it
from .pipe import Gone, Pipe

_APART = 0.1  # seconds between two reports that are sent
_GRACE = 5.0  # seconds to stop in, once the server has gone

log = logging.getLogger(__name__)


class Remote:
    """The side of a job that its work sees, in this process (see `work.Reporter`)."""

    def __init__(self, pipe: Pipe):
        self.stop = Event()
        self._pipe = pipe
        self._partial: Any = None
        self._sent = 0.0

    @property
    def partial(self) -> Any:
        return self._partial

    @partial.setter
    def partial(self, value: Any) -> None:
        self._partial = value
        self._pipe.send("partial", value)

    def report(self, fraction: float, message: str) -> None:
        """Say how far it is, not more often than anyone looks; raises Cancelled."""
        if self.stop.is_set():
            raise Cancelled
        if (now := time.monotonic()) >= self._sent + _APART:
            self._sent = now
            self._pipe.send("report", fraction, message)


class Server:
    """What is at the other end: its requests, one after the other."""

    def __init__(self, pipe: Pipe):
        self.pipe = pipe
        self.works: SimpleQueue[tuple[Any, Remote] | None] = SimpleQueue()
        self._latest: Remote | None = None

    def listen(self) -> None:
        """Take requests until the server has gone, and then see to it that this process ends."""
        while True:
            try:
                self._take(*self.pipe.receive())
            except Gone:
                break
            except Exception as error:  # a request that cannot be read
                log.exception("A request could not be read")
                self.pipe.send("failed", f"{type(error).__name__}: {error}")
        self.works.put(None)
        if self._latest is not None:
            self._latest.stop.set()
        time.sleep(_GRACE)
        os._exit(1)  # what is written is written whole or not at all

    def _take(self, what: str, *said: Any) -> None:
        if what == "do":
            self._latest = Remote(self.pipe)
            self.works.put((*said, self._latest))
        elif self._latest is not None:
            self._latest.stop.set()


def done(work: Any, job: Remote, kept: Kept, pipeline: Any) -> tuple[Any, ...]:
    """Do it; what to say of how it ended."""
    try:
        made = pipeline()
        made.progress.report_to(job.report)
        return "done", work(made, job)
    except Cancelled:
        return ("cancelled",)
    except Exception as error:
        if sentence := explain(error):
            return "refused", sentence
        log.exception("A job failed")
        return "failed", f"{type(error).__name__}: {error}"


def main(descriptor: int) -> None:
    """Work until the server has gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's
    logging.basicConfig()
    server, kept = Server(Pipe(descriptor)), Kept()
    pipeline = cache(lambda: Pipeline(kept=kept))
    Thread(target=server.listen, daemon=True).start()
    while (next_one := server.works.get()) is not None:
        said = done(*next_one, kept, pipeline)
        del next_one  # what the work holds on to can go
        try:
            server.pipe.send("held", kept.held)
            server.pipe.send(*said)
        except Gone:
            return
        except Exception as error:  # a result that cannot be sent
            log.exception("A result could not be sent")
            server.pipe.send("failed", f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(int(sys.argv[1]))
