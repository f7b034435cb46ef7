"""The command line as real processes: each has its own working folder, output and environment, as
if it had been started by itself."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from tests.helpers import processes
from tests.helpers.processes import ROOT, Ended, Running

_COMMAND = "import sys; from bipcore.cli.main import main; sys.exit(main(sys.argv[1:]))"


@dataclass(frozen=True)
class Call:
    """``python -m bipcore arguments`` in the folder ``cwd``, with more in its environment; it
    can write no file larger than ``file_limit`` bytes. ``first``: Python that it runs before."""

    arguments: list[str]
    cwd: str
    env: dict[str, str] = field(default_factory=dict)
    file_limit: int = 2**40
    first: str = ""


def start(call: Call) -> Running:
    """Start the command, which goes on by itself."""
    code = f"{call.first}\n{_COMMAND}"
    program = processes.Call(code, call.arguments, call.cwd, call.env, call.file_limit)
    return processes.with_bipcore().start(program)


def refusal(ended: Ended) -> str:
    """The one sentence on standard error of a command that was refused, the only thing it says."""
    assert (ended.status, ended.out) == (2, ""), ended.err
    lines = ended.err.strip().splitlines()
    assert len(lines) == 1, ended.err
    assert lines[0].startswith("error: ")
    return lines[0]


def run_all(calls: dict[str, Call]) -> dict[str, Ended]:
    """Run the calls one after the other; how each ended."""
    return {name: start(call).wait() for name, call in calls.items()}


def run_module(*arguments: object, cache: Path) -> Ended:
    """Run ``python -m bipcore`` in an interpreter of its own, with the run store in ``cache``."""
    done = subprocess.run(
        [sys.executable, "-m", "bipcore", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "BIPCORE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)
