"""What is a store: nothing is written to, counted in or removed from any other folder."""

import json
import os
import shutil

import pytest

from bipcore.errors import InputError
from bipcore.kinds import KINDS
from bipcore.store import unfinished
from bipcore.store.kinds import Kind, digest
from bipcore.store.roots import MARK, UNMARKED_KINDS
from bipcore.store.runs import RunStore
from tests.helpers.folders import tree
from tests.helpers.targets import SPECIAL, state

SPEC = {"n": 1}
SCORES = Kind("scores")


def _home(folder) -> None:
    """A folder such as people have, a thesis where an entry would lie."""
    for name in ("Documents/thesis", "scores/bach", f"models/{digest(SPEC)}"):
        (folder / name).mkdir(parents=True)
        (folder / name / "chapter.tex").write_text("years of work")
    (folder / "notes.txt").write_text("mine")


def _unmarked(root) -> RunStore:
    """A store of before there was a mark."""
    store = RunStore(root)
    store.get(SCORES, SPEC, lambda: {"a": 1})
    (root / MARK).unlink()
    return store


def test_a_root_is_marked_when_something_is_first_written(store):
    store.get(SCORES, SPEC, lambda: {"a": 1})
    assert json.loads((store.root / MARK).read_text()) == {"format": "bipcore-store/1"}


def test_a_folder_with_other_things_is_no_store_and_is_left_alone(tmp_path):
    _home(tmp_path)
    before, store = state(tmp_path), RunStore(tmp_path)

    for use in (
        lambda: store.get(SCORES, SPEC, lambda: pytest.fail("it was computed")),
        lambda: store.folder(Kind("models"), SPEC, lambda folder: pytest.fail("it was built")),
        lambda: store.clear(),
        lambda: store.clear("models", unfinished_older_than=0),
    ):
        with pytest.raises(
            InputError, match=r"is no run store .* \(Documents\); set BIPCORE_CACHE"
        ):
            use()
    assert store.find(Kind("models"), SPEC) is None
    assert store.named(Kind("models"), digest(SPEC)) is None
    assert list(store.entries()) == []
    store.remove(Kind("models"), SPEC)

    assert state(tmp_path) == before


@pytest.mark.parametrize(
    "name", ["models/llama-7b/config.json", "thesis/a/b", "scores/x", ".bashrc"]
)
def test_one_strange_thing_is_enough(tmp_path, name):
    _unmarked(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("mine")
    before = state(tmp_path)

    with pytest.raises(InputError, match="is no run store"):
        RunStore(tmp_path).clear()

    assert state(tmp_path) == before


@pytest.mark.parametrize("beside", [[], [".gitkeep"], ["lost+found"]])
def test_a_store_of_before_there_was_a_mark_is_one_and_gets_it(tmp_path, beside):
    store = _unmarked(tmp_path)
    (tmp_path / "statistics").mkdir()
    (tmp_path / "models" / f"{digest(SPEC)}.tmp-0badcafe").mkdir(parents=True)
    for name in beside:
        (tmp_path / name).touch()

    assert store.stored(SCORES, SPEC) == {"a": 1}
    assert not (tmp_path / MARK).exists()
    store.get(SCORES, {"n": 2}, lambda: {"a": 2})

    assert (tmp_path / MARK).is_file()
    assert store.stored(SCORES, SPEC) == {"a": 1}


def test_every_kind_of_before_there_was_a_mark_is_known():
    since = {"hashes", "curves", "decode-times", "plan-names", "teachers"}
    since |= {"head-close-ups", "channel-close-ups"}
    assert {kind.name for kind in KINDS} - since < set(UNMARKED_KINDS)


def test_an_empty_folder_becomes_a_store(tmp_path):
    RunStore(tmp_path).get(SCORES, SPEC, lambda: {"a": 1})
    assert (tmp_path / MARK).is_file()


@pytest.mark.parametrize("content", ["", "[]", "\0", "[" * 100_000])
def test_a_mark_that_is_damaged_is_written_again(tmp_path, content):
    store = _unmarked(tmp_path)
    (tmp_path / MARK).write_text(content)

    store.get(SCORES, {"n": 2}, lambda: {"a": 2})

    assert json.loads((tmp_path / MARK).read_text()) == {"format": "bipcore-store/1"}


def test_the_mark_of_another_format_is_left_alone(tmp_path):
    store = _unmarked(tmp_path)
    (tmp_path / MARK).write_text('{"format": "bipcore-store/2"}')

    with pytest.raises(InputError, match="is no run store"):
        store.get(SCORES, {"n": 2}, lambda: {"a": 2})

    assert (tmp_path / MARK).read_text() == '{"format": "bipcore-store/2"}'


def test_clear_removes_entries_alone_from_a_marked_folder(store):
    store.get(SCORES, SPEC, lambda: {"a": 1})
    _home(store.root)
    before = state(store.root)

    RunStore(store.root).clear(unfinished_older_than=0)

    gone = before.keys() - state(store.root).keys()
    entry = f"scores/{digest(SPEC)}"
    assert gone == {
        entry,
        f"{entry}/data.json",
        f"{entry}/spec.json",
        f"models/{digest(SPEC)}",
        f"models/{digest(SPEC)}/chapter.tex",
    }


def test_a_folder_called_as_an_entry_in_one_that_is_no_kind_stays(store):
    store.get(SCORES, SPEC, lambda: {"a": 1})
    (store.root / "thesis" / digest(SPEC)).mkdir(parents=True)

    store.clear(unfinished_older_than=0)

    assert (store.root / "thesis" / digest(SPEC)).is_dir()


@pytest.mark.parametrize("place", ["scores", "entry", "file"])
def test_clear_follows_no_link_out_of_the_store(tmp_path, store, place):
    store.get(SCORES, SPEC, lambda: {"a": 1})
    outside = tmp_path / "outside"
    (outside / digest({"n": 2})).mkdir(parents=True)
    (outside / digest({"n": 2}) / "spec.json").write_text("mine")
    entry = store.path(SCORES, SPEC)
    if place == "scores":
        shutil.rmtree(store.root / "scores")
    link = {
        "scores": store.root / "scores",
        "entry": entry.with_name(digest({"n": 2})),
        "file": entry / "more",
    }[place]
    link.symlink_to(outside if place == "scores" else outside / digest({"n": 2}))
    before = state(outside)

    store.clear(unfinished_older_than=0)

    assert state(outside) == before


def test_the_root_may_be_a_link_to_a_folder(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "cache").symlink_to("disk")

    RunStore(tmp_path / "cache").get(SCORES, SPEC, lambda: {"a": 1})

    assert os.readlink(tmp_path / "cache") == "disk"
    assert MARK in tree(tmp_path / "disk")


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", [*SPECIAL, "a file"])
def test_a_root_that_is_no_folder_is_refused_and_stays(tmp_path, kind):
    SPECIAL.get(kind, lambda path: path.write_text("mine"))(tmp_path / "x")
    before, store = state(tmp_path), RunStore(tmp_path / "x")

    assert store.find(SCORES, SPEC) is None
    assert list(store.entries()) == []
    for use in (lambda: store.get(SCORES, SPEC, dict), store.clear):
        with pytest.raises(InputError, match=r"x is no run store .* it is no folder"):
            use()

    assert state(tmp_path) == before


def test_what_killed_processes_left_is_removed_by_the_next_that_writes_there(store):
    store.get(SCORES, SPEC, lambda: {"a": 1})
    left = store.path(SCORES, SPEC)
    (left / "data.json").unlink()
    with pytest.warns(UserWarning, match="damaged"):
        store.find(SCORES, SPEC)
    while unfinished._kept:  # as when the process ends
        os.close(unfinished._kept.pop())
    (left.with_name(unfinished.temporary_name(f"{left.name}.tmp"))).mkdir()

    store.get(SCORES, {"n": 2}, lambda: {"a": 2})

    assert [entry.whole for entry in store.entries()] == [True]
