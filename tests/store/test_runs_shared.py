"""Several processes on one run store; real ones."""

import json
from pathlib import Path

import pytest

from bipcore.store.kinds import Kind, digest
from bipcore.store.runs import RunStore
from tests.helpers.processes import Call, Running, with_bipcore

SPEC = {"n": 1}

_COMPUTE = """
import json, sys, time, warnings
from pathlib import Path
from bipcore.store.kinds import Kind
from bipcore.store.runs import RunStore

warnings.simplefilter("error")
root, me = Path(sys.argv[1]), sys.argv[2]

def compute():
    (root.parent / f"started-{me}").touch()
    while len(list(root.parent.glob("started-*"))) < 2:
        time.sleep(0.01)
    return {"from": me}

print(json.dumps(RunStore(root).get(Kind("evaluations"), {"n": 1}, compute)))
"""

_KILLED = """
import os, sys
from bipcore.store.kinds import Kind
from bipcore.store.runs import RunStore

def build(folder):
    (folder / "half").write_text("x")
    os._exit(9)

RunStore(sys.argv[1]).folder(Kind("evaluations"), {"n": 1}, build)
"""


def _start(code: str, folder: Path, *arguments: str) -> Running:
    return with_bipcore().start(Call(code, [str(folder), *arguments], str(folder.parent)))


@pytest.fixture(scope="module")
def raced(tmp_path_factory):
    """A store on which two processes computed the same spec at once, and what they said."""
    root = tmp_path_factory.mktemp("raced") / "store"
    both = [_start(_COMPUTE, root, me) for me in ("a", "b")]
    return RunStore(root), [process.wait() for process in both]


def test_two_processes_that_compute_the_same_both_succeed(raced):
    _, ended = raced
    assert [(one.status, one.err) for one in ended] == [(0, ""), (0, "")]
    assert [json.loads(one.out)["from"] for one in ended] == ["a", "b"]


def test_two_processes_that_compute_the_same_leave_one_whole_entry(raced):
    store, _ = raced
    assert [(entry.digest, entry.whole) for entry in store.entries()] == [(digest(SPEC), True)]
    assert store.get(Kind("evaluations"), SPEC, dict)["from"] in "ab"


def test_what_a_killed_process_left_does_not_count(tmp_path):
    assert _start(_KILLED, tmp_path).wait().status == 9
    store = RunStore(tmp_path)
    assert [entry.whole for entry in store.entries()] == [False]
    assert store.get(Kind("evaluations"), SPEC, lambda: {"a": 1}) == {"a": 1}


def _build(text: str):
    return lambda folder: (folder / "w.txt").write_text(text)


def test_where_another_was_first_its_entry_stays(store):
    def overtaken(folder):
        RunStore(store.root).folder(Kind("models"), SPEC, _build("first"))
        _build("second")(folder)

    assert (store.folder(Kind("models"), SPEC, overtaken) / "w.txt").read_text() == "first"
    assert [entry.whole for entry in store.entries()] == [True]


def test_where_another_was_first_and_its_entry_is_damaged_ours_stands(store):
    def overtaken(folder):
        damaged = RunStore(store.root).folder(Kind("models"), SPEC, _build("first"))
        (damaged / "w.txt").write_text("")
        _build("second")(folder)

    assert (store.folder(Kind("models"), SPEC, overtaken) / "w.txt").read_text() == "second"
