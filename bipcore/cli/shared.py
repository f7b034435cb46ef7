"""A command in several processes: the main one runs it, the others do what it calls for."""

import os
import time
from collections.abc import Callable

import psutil

from ..errors import InputError, reason_of
from ..models import processes
from ..pipeline.pipeline import Pipeline
from ..store.outbox import Outbox
from . import console
from .signals import TERMINATED

SHARED = ("score", "curves", "prune", "evaluate", "compare", "reconstruct", "sweep", "zero-shot")
"""The commands that several processes may run."""

_LOST = 2
_SOON = 1.0  # seconds in which a process that is ending has ended


def check_shared(words: list[str]) -> None:
    """Raise InputError for a command that shares nothing, in several processes."""
    command = words[0] if words else "--help"
    if processes.place().count > 1 and command not in SHARED and not command.startswith("-"):
        raise InputError(
            f"The command {command!r} shares no work between processes; start it without torchrun "
            "or accelerate launch."
        )


def interrupted() -> str:
    """What is said where this process was told to end, as launchers do where another is gone."""
    count = processes.place().count
    why = "Interrupted" if count == 1 else f"Interrupted, or one of the {count} processes has ended"
    return f"{why}; what was stored before is kept."


def run_shared(command: Callable[[list[str]], int], words: list[str]) -> int:
    """Run ``command`` in the main process, with the others at hand; in those, be at hand, and
    silent. The exit status."""
    is_main = os.environ["RANK"] == "0"
    say = console.fail if is_main else console.silence()
    try:
        processes.join()
        if is_main:
            try:
                return command(words)
            finally:
                processes.end()
        outbox = Outbox()
        pipeline = Pipeline(outbox)
        owners = {type(one): one for one in (pipeline, pipeline.bench, pipeline.measurements)}
        processes.follow(owners, outbox.hand_over)
        return 0  # what there is to say of a failure the main process says
    except processes.Lost as lost:
        if is_main or (processes.place().rank == 1 and _main_is_gone(within=_SOON)):
            say(str(lost))
        return _LOST
    except Exception as error:
        if not is_main:
            say(f"Process {processes.place().rank} failed: {reason_of(error)}.")
        raise
    except KeyboardInterrupt:
        if processes.place().rank == 1 and _main_is_gone():
            say(interrupted())
        return TERMINATED


def _main_is_gone(*, within: float = 0.0) -> bool:
    """Whether the main process is, or will be in so many seconds."""
    last = time.monotonic() + within
    while True:
        try:
            gone = psutil.Process(processes.place().main_pid).status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            gone = True
        if gone or time.monotonic() >= last:
            return gone
        time.sleep(0.02)
