"""What tells models apart is what they are: two that differ in anything have keys that differ."""

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from bipcore.models import identity
from bipcore.models.identity import HASHES, known_content
from bipcore.specs import ModelSpec
from bipcore.store.runs import RunStore
from tests.helpers.folders import edit_json, model_folder
from tests.helpers.targets import state

SHARD = "model-00001-of-00002.safetensors"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory) -> Path:
    """A model whose shards lie in a folder of their own."""
    folder = model_folder(tmp_path_factory.mktemp("model") / "model")
    (folder / "weights").mkdir()
    (folder / "model.safetensors").rename(folder / "weights" / SHARD)
    index = {"weight_map": {"a": f"weights/{SHARD}"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture
def model(sharded, tmp_path) -> Path:
    """A copy of its own."""
    return Path(shutil.copytree(sharded, tmp_path / "model"))


def _flip(file: Path) -> None:
    """One bit, in place, and the times put back as far as a user can."""
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(before.st_size - 5)
        byte = opened.read(1)[0]
        opened.seek(before.st_size - 5)
        opened.write(bytes([byte ^ 1]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES = {
    "one bit of a shard in a folder below": lambda folder: _flip(folder / "weights" / SHARD),
    "one bit of the tokenizer": lambda folder: _flip(folder / "tokenizer.json"),
    "the configuration": lambda folder: edit_json(folder / "config.json", rope_theta=5e5),
    "a chat template more": lambda folder: (folder / "chat_template.jinja").write_text("x"),
    "a shard gone": lambda folder: (folder / "weights" / SHARD).unlink(),
    "another index": lambda folder: edit_json(
        folder / "model.safetensors.index.json", weight_map={"a": "config.json"}
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_model_in_which_something_changed_has_another_key(model, change):
    before = known_content(str(model))
    CHANGES[change](model)
    assert known_content(str(model)) not in (before, None)


def test_a_change_long_after_is_seen_too(model, monkeypatch):
    file = model / "weights" / SHARD
    monkeypatch.setattr("bipcore.store.content._CLOCK", -1.0)  # as if nothing had just changed
    before = known_content(str(model))
    time.sleep(0.02)
    _flip(file)
    assert known_content(str(model)) != before


def test_one_name_in_two_working_folders_is_two_models(tmp_path, monkeypatch):
    keys = []
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        model_folder(tmp_path / str(number) / "model", seed=number)
        monkeypatch.chdir(tmp_path / str(number))
        keys.append(ModelSpec("model", device="cpu").identity()["content"])
    assert keys[0] != keys[1]


def test_a_link_that_points_elsewhere_is_another_model(tmp_path):
    for number in range(2):
        model_folder(tmp_path / str(number), seed=number)
    (tmp_path / "link").symlink_to("0")
    before = known_content(str(tmp_path / "link"))
    (tmp_path / "link").unlink()
    (tmp_path / "link").symlink_to("1")
    assert known_content(str(tmp_path / "link")) != before


def test_the_same_content_elsewhere_is_the_same_model(model, tmp_path):
    copy = Path(shutil.copytree(model, tmp_path / "copy", copy_function=shutil.copyfile))
    assert known_content(str(copy)) == known_content(str(model))


def test_an_adapter_and_a_card_beside_a_model_do_not_count(model):
    before = known_content(str(model))
    (model / "adapter_config.json").write_text("{}")
    (model / "adapter_model.safetensors").write_bytes(b"x")
    (model / "README.md").write_text("a card")
    assert known_content(str(model)) == before


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "index", ["[]", "[" * 100_000, '{"weight_map": null}', '{"weight_map": {"a": 3, "b": "fifo"}}']
)
def test_whatever_lies_in_a_folder_has_a_key(model, index):
    os.mkfifo(model / "fifo")
    os.mkfifo(model / "more.json")
    (model / "dangling.safetensors").symlink_to("nowhere")
    (model / "model.safetensors.index.json").write_text(index)
    assert known_content(str(model)) is not None


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["model-00002.safetensors", "vocab.txt"])
def test_a_file_of_terabytes_that_holds_no_weights_is_not_read(model, name):
    with (model / name).open("wb") as file:
        file.truncate(2**42)  # sparse
    assert known_content(str(model)) is not None


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["../huge", "/proc/kcore"])
def test_what_an_index_names_elsewhere_is_not_read(model, name):
    with (model.parent / "huge").open("wb") as file:
        file.truncate(2**42)
    edit_json(model / "model.safetensors.index.json", weight_map={"a": name})
    assert known_content(str(model)) is not None


@pytest.mark.parametrize("name", ["", "~nosuchuser/x", "x" * 5000, "a\0b", "/no/such/folder"])
def test_what_can_be_no_folder_has_no_known_content(name):
    assert known_content(name) is None


@pytest.fixture
def large(model, cache, monkeypatch) -> Path:
    """A model whose weights count as large, unchanged for long."""
    monkeypatch.setattr(identity, "_LARGE", (model / "weights" / SHARD).stat().st_size)
    monkeypatch.setattr("bipcore.store.content._CLOCK", -1.0)
    return model


def test_the_store_keeps_what_large_files_held(large, cache, monkeypatch):
    key = known_content(str(large))
    assert {entry.kind for entry in cache.entries()} == {HASHES.name}

    read, real = [], identity.sha256
    monkeypatch.setattr(identity, "sha256", lambda file: (read.append(file.name), real(file))[1])
    assert known_content(str(large)) == key
    assert "config.json" in read
    assert SHARD not in read


def test_a_large_file_that_changed_is_read_again(large, cache):
    before = known_content(str(large))
    time.sleep(0.02)
    _flip(large / "weights" / SHARD)
    assert known_content(str(large)) != before


def test_what_the_store_kept_is_not_believed_where_it_is_damaged(large, cache):
    key = known_content(str(large))
    for entry in list(cache.entries()):
        (entry.path / "data.json").write_text('{"sha256": "00"}')
    with pytest.warns(UserWarning, match="damaged"):
        assert known_content(str(large)) == key


def test_where_nothing_can_be_stored_there_is_a_key_all_the_same(large, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "home"))
    before = state(tmp_path / "home")

    assert known_content(str(large)) is not None

    assert list(RunStore().entries()) == []
    assert state(tmp_path / "home") == before
