"""The command line as real processes, many for the price of one import.

A driver imports `bipcore` once and forks a child for every case: its own working folder, output
files and environment, as if each had been started by itself.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Call:
    """``python -m bipcore arguments`` in the folder ``cwd``, with more in its environment; it
    can write no file larger than ``file_limit`` bytes."""

    arguments: list[str]
    cwd: str
    env: dict[str, str] = field(default_factory=dict)
    file_limit: int = 2**40


@dataclass(frozen=True)
class Ended:
    """How a process ended: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


_DRIVER = """
import json, os, resource, sys, traceback
import torch, transformers, bipcore.cli.main, bipcore.views.scores, bipcore.export.export, datasets

def child(call, place):
    os.chdir(call["cwd"])
    os.environ.update(call["env"])
    for number, suffix in ((1, "out"), (2, "err")):
        os.dup2(os.open(f"{place}.{suffix}", os.O_WRONLY | os.O_CREAT), number)
    resource.setrlimit(resource.RLIMIT_FSIZE, (call["file_limit"],) * 2)
    status = 1
    try:
        status = bipcore.cli.main.main(call["arguments"])
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)

calls, statuses = json.load(open(sys.argv[1])), {}
for name, call in calls.items():
    pid = os.fork()
    if pid == 0:
        child(call, f"{sys.argv[2]}/{name}")
    statuses[name] = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
print(json.dumps(statuses))
"""


def run_all(calls: dict[str, Call], folder: Path) -> dict[str, Ended]:
    """Run the calls one after the other; ``folder`` takes their output."""
    request = folder / "calls.json"
    request.write_text(json.dumps({name: vars(call) for name, call in calls.items()}))
    done = subprocess.run(
        [sys.executable, "-c", _DRIVER, str(request), str(folder)],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {
        name: Ended(
            status, (folder / f"{name}.out").read_text(), (folder / f"{name}.err").read_text()
        )
        for name, status in json.loads(done.stdout).items()
    }
