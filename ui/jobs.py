"""The worker of a server, which has everything done that takes long, one job after the other.

Pages submit a job under a key that says what it computes, poll it, and may cancel it. Whoever
asks for the same key gets the same job, so a page change, a reload or a second tab finds it. Where
the work is done is an engine's business (`engines.py`). Nothing here calls Streamlit.
"""

import logging
import queue
import threading
import time
from collections import OrderedDict, deque
from typing import Any

from bipcore.errors import Cancelled, explain
from bipcore.pipeline.kept import Held

from .engines import InProcess, InThread, Unexpected, Work, engine
from .job_log import JobLog, Place

QUEUED, RUNNING, DONE, FAILED, CANCELLED = "queued", "running", "done", "failed", "cancelled"
_KEPT = 64  # finished jobs that can still be found
_ENDED = 5  # of the last of them is told how they ended
_RECENT, _APART = 30.0, 0.5  # seconds: reports that tell the rate, and how far apart they are kept

log = logging.getLogger(__name__)


_states = threading.Lock()
"""Held while a job's state is looked at to change it, so that no two see the same one."""


class Job:
    """One piece of work: its state, progress (0 to 1), result or error, and partial results;
    ``place`` is where it was asked for, ``number`` what the list of jobs has it under.

    A job that waits becomes one that runs or one that was cancelled, never both.
    """

    def __init__(self, key: str, title: str, work: Work, place: Place | None = None):
        self.key = key
        self.title = title
        self.place = place
        self.number: int | None = None
        self.state = QUEUED
        self.fraction = 0.0
        self.message = "Waiting for the work before it"
        self.partial: Any = None
        self.result: Any = None
        self.error: str | None = None
        self.started: float | None = None
        self.ended: float | None = None
        self._reports: deque[tuple[float, float]] = deque(maxlen=round(2 * _RECENT / _APART))
        self._work = work
        self._cancel = threading.Event()

    @property
    def active(self) -> bool:
        """Whether it waits or runs."""
        return self.state in (QUEUED, RUNNING)

    @property
    def stopping(self) -> bool:
        """Whether it was asked to stop."""
        return self._cancel.is_set()

    @property
    def seconds(self) -> float:
        """How long it has run, or ran."""
        if self.started is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.started

    @property
    def seconds_left(self) -> float | None:
        """By the rate of the reports of the last half minute, less the time since the last one;
        None while there is too little to go by, and where it takes longer than that."""
        reports = list(self._reports)
        if len(reports) < 2 or self.fraction < 0.05:
            return None
        then, done = reports[-1]
        earlier = [one for one in reports[:-1] if one[0] >= then - _RECENT] or reports[-2:-1]
        since, before = earlier[0]
        if done <= before or then <= since:
            return None
        left = (1 - done) * (then - since) / (done - before) - (time.monotonic() - then)
        return left if left > 0 else None

    def cancel(self) -> None:
        """Ask it to stop; it does at its next step, and does not start where it waits."""
        with _states:
            self._cancel.set()
            if self.state == QUEUED:
                self.state, self._work = CANCELLED, None

    def report(self, fraction: float, message: str) -> None:
        """The progress callable that the work is given; raises Cancelled when it is to stop."""
        if self.stopping:
            raise Cancelled
        self.hear(fraction, message)

    def hear(self, fraction: float, message: str) -> None:
        """Take in how far it is."""
        self.fraction, self.message = min(max(fraction, 0.0), 1.0), message
        now = time.monotonic()
        if not self._reports or now >= self._reports[-1][0] + _APART:
            self._reports.append((now, self.fraction))

    def run(self, place: InThread | InProcess) -> None:
        """Have the work done, unless it was cancelled before, and keep how it ended. Called by the
        worker's thread."""
        with _states:
            if self.state != QUEUED:
                return
            self.started, self.state = time.monotonic(), RUNNING
        try:
            self.report(0.0, "Starting")
            self.result = place.run(self._work, self)
            self.fraction, ended = 1.0, DONE
        except Cancelled:
            ended = CANCELLED
        except Unexpected as error:
            self.error, ended = f"This failed in a way it should not: {error}", FAILED
        except Exception as error:
            self.error = explain(error)
            if self.error is None:
                log.exception("The job %r failed", self.title)
                self.error = f"This failed in a way it should not: {type(error).__name__}: {error}"
            ended = FAILED
        self._work, self.ended = None, time.monotonic()  # whatever it holds on to can go
        with _states:
            self.state = ended


class Worker:
    """Has jobs done one after the other, in a place of its own; a daemon thread waits for each."""

    def __init__(self) -> None:
        self.engine = engine()
        self.engine.start()
        self.log = JobLog()
        self._lock = threading.Lock()
        self._jobs: OrderedDict[str, Job] = OrderedDict()
        self._queue: queue.SimpleQueue[Job] = queue.SimpleQueue()
        self._ended: deque[Job] = deque(maxlen=_ENDED)
        self._thread: threading.Thread | None = None

    @property
    def held(self) -> Held:
        """What it keeps in memory from one job to the next."""
        return self.engine.held

    def submit(self, key: str, title: str, work: Work, place: Place | None = None) -> Job:
        """The job under ``key``: the one that waits, runs or is done, else a new one, asked for at
        ``place``."""
        with self._lock:
            job = self._jobs.get(key)
            if job is not None and (job.active or job.state == DONE):
                return job
            return self._add(Job(key, title, work, place))

    def ask(self, key: str, title: str, work: Work, place: Place | None = None) -> Job:
        """The job under ``key`` in whatever state, else a new one: what failed or was cancelled
        stays so until it is forgotten."""
        with self._lock:
            return self._jobs.get(key) or self._add(Job(key, title, work, place))

    def _add(self, job: Job) -> Job:
        job.number = self.log.add(job.key, job.title, job.place)
        self._jobs[job.key] = job
        self._jobs.move_to_end(job.key)
        self._forget_oldest()
        self._queue.put(job)
        if self._thread is None:
            self._thread = threading.Thread(target=self._loop, name="bipcore", daemon=True)
            self._thread.start()
        return job

    def find(self, key: str) -> Job | None:
        """The job under ``key``, in whatever state."""
        with self._lock:
            return self._jobs.get(key)

    def forget(self, key: str, job: Job | None = None) -> None:
        """Drop the finished job under ``key``, so that it can be submitted again. With ``job`` only
        where it is this one: another may have taken its place since it was looked at."""
        with self._lock:
            found = self._jobs.get(key)
            if found is not None and not found.active and job in (None, found):
                del self._jobs[key]

    def active(self) -> list[Job]:
        """The jobs that run or wait, in order."""
        with self._lock:
            return [job for job in self._jobs.values() if job.active]

    def ended(self) -> list[Job]:
        """The last jobs that ran and ended, in whatever way, the latest first."""
        return list(reversed(self._ended))

    def _forget_oldest(self) -> None:
        finished = [key for key, job in self._jobs.items() if not job.active]
        for key in finished[: max(0, len(finished) - _KEPT)]:
            del self._jobs[key]

    def _loop(self) -> None:
        while True:
            job = self._queue.get()
            if job.active:
                self.log.say(job.number, RUNNING)
            job.run(self.engine)
            self.log.say(job.number, job.state, job.error)
            if job.started is not None:
                self._ended.append(job)


_worker: Worker | None = None
_worker_lock = threading.Lock()


def worker() -> Worker:
    """The worker of this process."""
    global _worker
    with _worker_lock:
        if _worker is None:
            _worker = Worker()
        return _worker
