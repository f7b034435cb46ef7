"""Nothing in an entry is believed that is not, to the last bit, what was written."""

import json
import os
import shutil

import pytest
import torch

from bipcore.errors import InputError
from bipcore.store.kinds import Kind, digest, stored_as_it_is
from bipcore.store.runs import RunStore
from tests.helpers.damage import DAMAGE, copied
from tests.helpers.folders import edit_json

RESULTS = stored_as_it_is("scores")
MODELS = Kind("models")
SPEC, OTHER = {"model": "a"}, {"model": "b"}


def _result(value: float = 1.0):
    return {"x": torch.full((64,), value)}, {"value": value}


def _build(folder) -> None:
    (folder / "deep").mkdir()
    (folder / "config.json").write_text('{"layers": 3}')
    (folder / "deep" / "weights.bin").write_bytes(bytes(range(256)) * 10)


def _right(store: RunStore) -> bool:
    """Whether a result and a folder are what was stored, whatever has to be done for it."""
    tensors, data = store.get(RESULTS, SPEC, _result)
    folder = store.folder(MODELS, SPEC, _build)
    return (
        torch.equal(tensors["x"], _result()[0]["x"])
        and data == {"value": 1.0}
        and (folder / "config.json").read_text() == '{"layers": 3}'
        and (folder / "deep" / "weights.bin").read_bytes() == bytes(range(256)) * 10
    )


@pytest.fixture
def full(store):
    """A store with a result, a folder, and another result."""
    assert _right(store)
    store.get(RESULTS, OTHER, lambda: _result(2.0))
    return store


FILES = (
    (RESULTS, "spec.json"),
    (RESULTS, "data.json"),
    (RESULTS, "data.safetensors"),
    (MODELS, "spec.json"),
    (MODELS, "config.json"),
    (MODELS, "deep/weights.bin"),
)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize(("kind", "file"), FILES)
def test_what_a_damaged_file_belongs_to_is_made_again_with_a_warning(full, kind, file, damage):
    DAMAGE[damage](full.path(kind, SPEC) / file)

    with pytest.warns(UserWarning, match=r"is damaged \(.+\); computing it again") as caught:
        assert _right(full)

    assert len(caught) == 1
    assert _right(full)


def _no_files(entry) -> None:
    edit_json(entry / "spec.json", files={})


def _one_file_less(entry) -> None:
    files = json.loads((entry / "spec.json").read_text())["files"]
    edit_json(entry / "spec.json", files=dict(list(files.items())[:1]))


def _no_checksums(entry) -> None:
    """As versions before wrote files over 64 MiB."""
    files = json.loads((entry / "spec.json").read_text())["files"]
    edit_json(entry / "spec.json", files={n: f | {"sha256": None} for n, f in files.items()})


def _outside(entry) -> None:
    (entry.parent / "outside").write_text("x")
    files = json.loads((entry / "spec.json").read_text())["files"]
    edit_json(entry / "spec.json", files=files | {"../outside": files["data.json"]})


def _gone_but_for_the_manifest(entry) -> None:
    for file in ("data.json", "data.safetensors"):
        (entry / file).unlink()
    _no_files(entry)


def _a_file(entry) -> None:
    shutil.rmtree(entry)
    entry.write_text("x")


def _a_fifo(entry) -> None:
    (entry / "data.json").unlink()
    os.mkfifo(entry / "data.json")


ENTRY = {
    "no files in the list": _no_files,
    "a file not in the list": _one_file_less,
    "no checksums": _no_checksums,
    "a name that points outside": _outside,
    "nothing but the manifest": _gone_but_for_the_manifest,
    "a file more": lambda entry: (entry / "more.json").write_text("{}"),
    "of another spec": lambda entry: copied(entry.parent / digest(OTHER), entry),
    "a spec that was changed": lambda entry: edit_json(entry / "spec.json", spec=OTHER),
    "of another version": lambda entry: edit_json(entry / "spec.json", version=1),
    "of another kind": lambda entry: edit_json(entry / "spec.json", kind="statistics"),
    "sizes that are none": lambda entry: edit_json(entry / "spec.json", files={"data.json": 1}),
    "emptied": lambda entry: (shutil.rmtree(entry), entry.mkdir()),
    "a file": _a_file,
    "a dangling link": lambda entry: (shutil.rmtree(entry), entry.symlink_to("nowhere")),
    "a FIFO in it": _a_fifo,
}


@pytest.mark.timeout(20)
@pytest.mark.parametrize("damage", ENTRY)
def test_an_entry_that_is_not_as_it_was_written_is_computed_again(full, damage):
    ENTRY[damage](full.path(RESULTS, SPEC))

    with pytest.warns(UserWarning, match=r"is damaged \(.+\); computing it again"):
        assert _right(full)

    assert _right(full)


@pytest.mark.parametrize("damage", ENTRY)
def test_an_entry_that_is_not_as_it_was_written_is_not_read_by_name(full, damage):
    ENTRY[damage](full.path(RESULTS, SPEC))
    if not full.path(RESULTS, SPEC).is_dir():
        assert full.named(RESULTS, digest(SPEC)) is None
        return
    with pytest.raises(InputError, match="is damaged"):
        full.named(RESULTS, digest(SPEC))


def test_one_bit_of_a_large_file_counts(store):
    def build(folder) -> None:
        with (folder / "weights").open("wb") as file:
            file.truncate(65 * 2**20)

    folder = store.folder(MODELS, SPEC, build)
    with (folder / "weights").open("r+b") as file:
        file.seek(40 * 2**20)
        file.write(b"\1")

    with pytest.warns(UserWarning, match="weights has changed"):
        folder = store.folder(MODELS, SPEC, build)
    with (folder / "weights").open("rb") as file:
        file.seek(40 * 2**20)
        assert file.read(1) == b"\0"


def test_a_result_that_this_version_cannot_read_is_computed_again(store):
    store.get(Kind("scores"), SPEC, lambda: {"of": "another version"})
    ours = Kind("scores", write=lambda number: ({}, {"n": number}), read=lambda _, data: data["n"])

    with pytest.warns(UserWarning, match="it has no 'n'"):
        assert store.get(ours, SPEC, lambda: 3) == 3

    assert store.get(ours, SPEC, dict) == 3


def test_an_entry_without_its_kinds_name_is_one_of_a_version_before(full):
    file = full.path(RESULTS, SPEC) / "spec.json"
    manifest = json.loads(file.read_text())
    del manifest["kind"]
    file.write_text(json.dumps(manifest))

    assert full.stored(RESULTS, SPEC)[1] == {"value": 1.0}


@pytest.mark.parametrize("damage", ENTRY)
def test_a_damaged_entry_closes_no_list(full, damage):
    ENTRY[damage](full.path(RESULTS, SPEC))

    found = {entry.path: entry.spec for entry in full.entries()}

    assert found[full.path(RESULTS, OTHER)] == OTHER
    assert found[full.path(MODELS, SPEC)] == SPEC


def test_a_damaged_entry_in_the_list_of_a_kind_is_warned_of(full):
    (full.path(RESULTS, SPEC) / "spec.json").write_text("[]")

    with pytest.warns(UserWarning, match="is damaged, and left out"):
        assert [entry.spec for entry in full.entries(RESULTS) if entry.whole] == [OTHER]
