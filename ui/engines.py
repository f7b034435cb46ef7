"""Where the work of a job is done: in a process of its own, or in the thread that asks.

In its own process it takes nothing from the pages: neither the interpreter's lock nor, where it
runs out of memory, the server. The process is started before the first job, and again after its
end; its models are kept from one job to the next. `BIPCORE_WORKER=thread` has the work done in the
server.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from bipcore.errors import Cancelled, InputError
from bipcore.pipeline.kept import Held, Kept
from bipcore.pipeline.pipeline import Pipeline

from .pipe import Gone, Pipe, pair

PLACE = "BIPCORE_WORKER"
_ROOT = Path(__file__).resolve().parents[1]
_LOOK = 0.05  # seconds between two looks at whether the job is to stop
_PATIENCE = 20.0  # seconds that a job has to stop in, before its process is ended


class Asked(Protocol):
    """What an engine needs of a job."""

    stopping: bool
    partial: Any

    def hear(self, fraction: float, message: str) -> None:
        """Take in how far it is."""

    def report(self, fraction: float, message: str) -> None:
        """The same; raises Cancelled where it is to stop."""


Work = Callable[[Pipeline, Any], Any]


class Unexpected(Exception):
    """A fault of ours, said in the words of the process where it happened, and logged there."""


class InThread:
    """Work done in the thread that runs it, its models kept."""

    def __init__(self) -> None:
        self.kept = Kept()

    @property
    def held(self) -> Held:
        """What is kept in memory."""
        return self.kept.held

    @cached_property
    def _pipeline(self) -> Pipeline:  # made by the first job: that may fail, and is its failure
        return Pipeline(kept=self.kept)

    def start(self) -> None:
        """Nothing has to be ready."""

    def run(self, work: Work, job: Asked) -> Any:
        """The result of the work; raises what it raises."""
        self._pipeline.progress.report_to(job.report)
        return work(self._pipeline, job)


class InProcess:
    """Work done in a process of its own (`work_process.py`), one job after the other."""

    def __init__(self) -> None:
        self.held = Held()
        self._process: subprocess.Popen | None = None
        self._pipe: Pipe | None = None

    def start(self) -> None:
        """Have the process ready."""
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._end()
        self._pipe, other = pair()
        path = os.pathsep.join([str(_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        command = [sys.executable, "-m", "ui.work_process", str(other.fileno())]
        with other:
            self._process = subprocess.Popen(
                command,
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": path},
            )

    def run(self, work: Work, job: Asked) -> Any:
        """The result of the work. Raises Cancelled, InputError with the sentence for what a user
        can mend, the end of the process among it, and Unexpected."""
        self.start()
        try:
            self._pipe.send("do", work)
            return self._followed(job)
        except Gone:
            raise InputError(self._end()) from None

    def _followed(self, job: Asked) -> Any:
        asked = None
        while True:
            if job.stopping and asked is None:
                self._pipe.send("stop")
                asked = time.monotonic()
            if not self._pipe.waits(_LOOK):
                if asked is not None and time.monotonic() > asked + _PATIENCE:
                    self._process.kill()
                    self._end()
                    raise Cancelled
                continue
            match self._pipe.receive():
                case "report", fraction, message:
                    job.hear(fraction, message)
                case "partial", value:
                    job.partial = value
                case "held", held:
                    self.held = held
                case "done", result:
                    return result
                case ("cancelled",):
                    raise Cancelled
                case "refused", sentence:
                    raise InputError(sentence)
                case "failed", said:
                    raise Unexpected(said)

    def _end(self) -> str:
        """Let go of the process that has ended; what to say of it."""
        self._pipe.close()
        status = self._process.wait()
        self._process, self.held = None, Held()
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        why = ", as it does where memory runs out" if status == -9 else ""
        return (
            f"The process that did this ended {how}{why}. What was stored is kept, and what is "
            "asked for next starts it anew."
        )


def engine() -> InThread | InProcess:
    """The place that the environment says."""
    return InThread() if os.environ.get(PLACE) == "thread" else InProcess()
