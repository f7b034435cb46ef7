"""What killed processes leave is removed by the next writer, and nothing that has an owner is."""

import os
import time
from pathlib import Path

import pytest

from bipcore.store import unfinished
from bipcore.store.files import check_destination, whole_file, whole_folder
from bipcore.store.unfinished import OLD, is_temporary, keep_aside, publish, sweep, temporary_name
from tests.helpers.folders import tree
from tests.helpers.processes import Call, Running, with_bipcore

_WRITES = """
import os, sys, time
from pathlib import Path
from bipcore.store.files import whole_file, whole_folder

place, what = Path(sys.argv[1]), sys.argv[2]
with {"file": whole_file, "folder": whole_folder}[what](place / "x") as new:
    ((new / "half") if what == "folder" else new).write_text("half")
    (place / "written").touch()
    if sys.argv[3] == "dies":
        os._exit(9)
    while (place / "written").exists():
        time.sleep(0.01)
"""

_SWAPS = """
import os, sys
from pathlib import Path
from bipcore.store import unfinished

renames, rename = [], os.rename

def dying(*paths):
    if renames:
        os._exit(9)
    renames.append(rename(*paths))

unfinished._exchange = lambda first, second: False
os.rename = dying
unfinished.publish(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def _writer(place: Path, what: str, how: str) -> Running:
    process = with_bipcore().start(Call(_WRITES, [str(place), what, how], str(place)))
    while not (place / "written").exists() and not process.ended:
        time.sleep(0.01)
    return process


def _write(place: Path) -> None:
    with whole_file(place / "y") as new:
        new.write_text("y")


def _age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    for one in (*path.rglob("*"), path):
        os.utime(one, (then, then))


@pytest.mark.parametrize("what", ["file", "folder"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path, what):
    assert _writer(tmp_path, what, "dies").wait().status == 9
    assert len(tree(tmp_path)) > 1

    _write(tmp_path)

    assert tree(tmp_path) == ["written", "y"]


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_another_process_is_writing_stays(tmp_path, what):
    process = _writer(tmp_path, what, "waits")

    _write(tmp_path)
    (tmp_path / "written").unlink()

    assert process.wait().status == 0
    assert (tmp_path / "x" / "half" if what == "folder" else tmp_path / "x").read_text() == "half"


@pytest.mark.parametrize("at", ["0badcafe", None])
def test_what_another_machine_or_version_left_is_removed_when_it_is_old(tmp_path, at):
    name = f".unfinished-{at}-0123456789ab" if at else ".unfinished-0123456789ab"
    (tmp_path / name).mkdir()
    (tmp_path / name / "weights").write_text("x")
    _age(tmp_path / name, 2 * OLD)
    (tmp_path / name / "weights").touch()

    sweep(tmp_path)
    assert tree(tmp_path) == [name, f"{name}/weights"]

    _age(tmp_path / name, 2 * OLD)
    sweep(tmp_path)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    "name", [".unfinished", ".unfinished-thesis", "x.tmp-0badcafe", ".unfinished-0123456789ab.txt"]
)
def test_what_is_not_called_as_we_call_it_stays(tmp_path, name):
    (tmp_path / name).mkdir()
    _age(tmp_path / name, 2 * OLD)

    sweep(tmp_path)

    assert not is_temporary(name)
    assert tree(tmp_path) == [name]


def test_a_link_of_such_a_name_and_what_it_points_to_stay(tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / temporary_name(".unfinished")).symlink_to("thesis")

    sweep(tmp_path)

    assert len(tree(tmp_path)) == 2


def test_what_was_set_aside_stays_while_its_owner_lives(tmp_path):
    (tmp_path / "0123456789abcdef").mkdir()

    keep_aside(tmp_path / "0123456789abcdef", "0123456789abcdef.damaged")
    sweep(tmp_path)
    assert len(tree(tmp_path)) == 1

    os.close(unfinished._kept.pop())  # as when the process ends
    sweep(tmp_path)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_folder_takes_the_place_of_an_earlier_one(tmp_path, monkeypatch, exchanges):
    if not exchanges:
        monkeypatch.setattr(unfinished, "_exchange", lambda first, second: False)
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "old").touch()

    with whole_folder(tmp_path / "x") as new:
        (new / "new").touch()

    assert tree(tmp_path) == ["x", "x/new"]


def test_two_folders_change_places_in_one_step(tmp_path):
    for name in "ab":
        (tmp_path / name / name).mkdir(parents=True)

    if not unfinished._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("not on this system")

    assert tree(tmp_path) == ["a", "a/b", "b", "b/a"]


def test_an_earlier_folder_that_was_moved_aside_by_a_killed_process_is_put_back(tmp_path):
    for name in ("x", "new"):
        (tmp_path / name / name).mkdir(parents=True)
    call = Call(_SWAPS, [str(tmp_path / "new"), str(tmp_path / "x")], str(tmp_path))
    assert with_bipcore().start(call).wait().status == 9
    assert not (tmp_path / "x").exists()

    sweep(tmp_path)
    with pytest.raises(ValueError, match="holds something else"):  # it has no manifest
        check_destination(tmp_path / "x")

    assert tree(tmp_path) == ["new", "new/new", "x", "x/x"]


def test_an_earlier_folder_is_back_where_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    monkeypatch.setattr(unfinished, "_exchange", lambda first, second: False)
    (tmp_path / "x").mkdir()

    with pytest.raises(FileNotFoundError):
        publish(tmp_path / "missing", tmp_path / "x")

    assert tree(tmp_path) == ["x"]
