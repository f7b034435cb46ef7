"""Real processes, many for the price of one import: children of drivers that live on.

A pytest process has at most one driver of a kind, started when it is first asked for.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_PROGRAM = Path(__file__).with_name("driver.py")
_IMPORTS = (
    "torch",
    "transformers",
    "datasets",
    "peft",
    "plotly.graph_objects",
    "bipcore.views.scores",
    "bipcore.export.export",
    "tests.helpers.commands",
)
_FRESH_IMPORTS = ("torch", "transformers", "safetensors.torch")


@dataclass(frozen=True)
class Call:
    """A Python program ``code`` with ``arguments``, run in the folder ``cwd`` with ``env`` over the
    environment of the tests; it can write no file larger than ``file_limit`` bytes."""

    code: str
    arguments: Sequence[str]
    cwd: str
    env: dict[str, str] = field(default_factory=dict)
    file_limit: int = 2**40


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit status (-9 where it was killed), standard output and error."""

    status: int
    out: str
    err: str


@dataclass(frozen=True)
class Running:
    """A process that was started: wait for its end, or kill it first."""

    driver: "Driver"
    pid: int
    place: Path

    @property
    def ended(self) -> bool:
        """Whether it has come to its end."""
        return self.driver.ask({"ended": self.pid})

    def kill(self) -> None:
        """Send it SIGKILL."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> Ended:
        """Once it has ended, how."""
        status = self.driver.ask({"wait": self.pid})
        out, err = (self.place / name for name in ("out", "err"))
        ended = Ended(status, out.read_text(), err.read_text())
        shutil.rmtree(self.place)
        return ended


class Driver:
    """A process that forks others: `tests.helpers.driver`. ``folder`` is its own."""

    def __init__(self, command: Sequence[str], **env: str):
        self.folder = Path(tempfile.mkdtemp(prefix="driver-"))
        self.env = {name: value.format(folder=self.folder) for name, value in env.items()}
        self._stderr = (self.folder / "stderr").open("w")
        pipe = subprocess.PIPE
        streams = {"stdin": pipe, "stdout": pipe, "stderr": self._stderr}
        environment = {**os.environ, **self.env}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **streams)

    def ask(self, request: dict):
        """Its answer to a request."""
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, (self.folder / "stderr").read_text()
        return json.loads(answer)

    def start(self, call: Call) -> Running:
        """Start a process that runs ``call``."""
        place = Path(tempfile.mkdtemp(dir=self.folder))
        request = {
            "code": call.code,
            "arguments": list(call.arguments),
            "cwd": call.cwd,
            "env": {**os.environ, **self.env, **call.env},
            "out": str(place / "out"),
            "err": str(place / "err"),
            "file_limit": call.file_limit,
        }
        return Running(self, self.ask({"start": request}), place)

    def close(self) -> None:
        """Let it end, which it does when there is nothing more to read, and wait for that."""
        self._process.communicate()
        self._stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@cache
def with_bipcore() -> Driver:
    """The driver that has imported what the command line imports."""
    return Driver([sys.executable, "-m", "tests.helpers.driver", *_IMPORTS], HF_HUB_OFFLINE="1")


@cache
def without_bipcore() -> Driver:
    """The driver whose processes have `transformers` and cannot import `bipcore`, offline, with
    Hugging Face caches of its own."""
    command = [sys.executable, "-I", str(_PROGRAM), *_FRESH_IMPORTS]
    return Driver(command, HF_HUB_OFFLINE="1", HF_HOME="{folder}/hf")


@contextmanager
def drivers() -> Iterator[None]:
    """At the end, whichever drivers were started are closed."""
    yield
    for driver in (with_bipcore, without_bipcore):
        if driver.cache_info().currsize:
            driver().close()
            driver.cache_clear()
