"""Commands in several processes: the same results, one that writes and speaks, and no hang."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bipcore.store.runs import RunStore
from bipcore.studies.points import POINTS
from tests.helpers.cli import Call, start
from tests.helpers.folders import model_folder
from tests.helpers.processes import ROOT, Ended
from tests.helpers.tasks import write_rows
from tests.helpers.team import environments

TINY = ("--device", "cpu", "--seq-len", "24", "--max-tokens", "320", "--window", "16")
SWEEP = ("--criteria", "magnitude,flap", "--presets", "recommended", "--sparsities", "0.2,0.99")
MANY = ("--criteria", "magnitude", "--sparsities", "0.1,0.2,0.3,0.4,0.5,0.6", "--window", "16")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("shared") / "model"))


def _started(folder: Path, *arguments: str, **changes: dict) -> list:
    """Two processes of a command; ``changes``: what is otherwise of the "first" or the "second"."""
    calls = []
    for name, env in zip(("first", "second"), environments(2), strict=True):
        own = {"BIPCORE_CACHE": str(folder / "store"), "BIPCORE_DATA": str(folder / "data")}
        change = changes.get(name, {})
        env = env | own | change.get("env", {})
        limit = change.get("file_limit", 2**40)
        calls.append(Call(list(arguments), str(folder), env, limit))
    return [start(call) for call in calls]


def _ended(*arguments, **changes) -> list[Ended]:
    return [one.wait() for one in _started(*arguments, **changes)]


def _points(said: str) -> list[dict]:
    points = json.loads(said)["points"]
    return [{k: v for k, v in point.items() if k != "seconds"} for point in points]


def _close(found: object, expected: object) -> bool:
    """Whether plain data is the same, its numbers to a millionth."""
    if isinstance(expected, dict):
        return found.keys() == expected.keys() and all(_close(found[k], expected[k]) for k in found)
    if isinstance(expected, list):
        return len(found) == len(expected) and all(map(_close, found, expected))
    return found == (pytest.approx(expected, rel=1e-6) if isinstance(expected, float) else expected)


def test_a_sweep_by_torchrun_is_that_of_one_process_in_one_store(run, model, tmp_path, cache):
    words = ("sweep", model, *SWEEP, "--sizes", "9", *TINY, "--json")
    alone = run(*words)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc_per_node", "2", "-m", "bipcore", *words],
        cwd=ROOT,
        env={**os.environ, "BIPCORE_CACHE": str(tmp_path / "shared"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert _close(_points(done.stdout), _points(alone))
    shared = RunStore(tmp_path / "shared")
    names = [{(e.kind, e.digest, e.whole) for e in store.entries()} for store in (cache, shared)]
    assert names[0] == names[1]


def test_a_process_that_is_killed_ends_the_sweep_and_leaves_what_was_finished(model, tmp_path):
    main, other = _started(tmp_path, "sweep", model, *MANY, "--max-tokens", "20000")
    store, limit = RunStore(tmp_path / "store"), time.monotonic() + 60
    while sum(entry.whole for entry in store.entries(POINTS)) < 2 and time.monotonic() < limit:
        time.sleep(0.02)
    other.kill()
    assert other.wait().status == -9
    ended = main.wait()
    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith("error: Another of the 2 processes has ended")
    assert len(ended.err.strip().splitlines()) == 1
    points = list(store.entries(POINTS))
    assert 2 <= len(points) < 7
    assert all(store.named(POINTS, point.digest) for point in points)


def test_tasks_in_two_states_are_shared_and_one_process_writes_and_speaks(run, model, tmp_path):
    words = ("zero-shot", model, "--tasks", "piqa,boolq", "--limit", "3", "--sparsity", "0.5")
    words += ("--samples", "4", "--seq-len", "16", "--json")
    write_rows(tmp_path / "data")
    main, other = _ended(tmp_path, *words)
    assert (main.status, other) == (0, Ended(0, "", "")), main.err
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BIPCORE_DATA", str(tmp_path / "data"))
        assert _close(json.loads(main.out), json.loads(run(*words)))


REFUSED = {
    "bad input": (("score", "no-such-model"), {}, "no-such-model"),
    "nothing to share": (("generate", "MODEL", "--prompt", "a"), {}, "'generate' shares no work"),
    "a full disk of the one that writes": (
        ("score", "MODEL", *TINY[:4]),
        {"first": {"file_limit": 5000}},
        "cannot be written",
    ),
    "another store in one": (
        ("evaluate", "MODEL", *TINY, "--sparsity", "0.5", "--compensation", "least-squares"),
        {"second": {"env": {"BIPCORE_CACHE": "elsewhere"}}},
        "all processes need the same store",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_an_error_is_one_sentence_of_the_main_process(model, tmp_path, what):
    arguments, changes, said = REFUSED[what]
    main, other = _ended(tmp_path, *(model if a == "MODEL" else a for a in arguments), **changes)
    assert other == Ended(0, "", "")
    assert (main.status, main.out) == (2, "")
    lines = [line for line in main.err.strip().splitlines() if not line.startswith("warning")]
    assert len(lines) == 1, main.err
    assert said in lines[0]
    assert not (tmp_path / "elsewhere").exists()
