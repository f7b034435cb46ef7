"""What of a hub model is fetched: the files that make it up, once."""

import json
from pathlib import Path

import pytest
from huggingface_hub.utils import filter_repo_objects

from bipcore.hub import has_weights, model_folder, named_weights

SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
SMALL = ["config.json", "tokenizer.json", "tokenizer.model", "README.md", "chat_template.jinja"]
OTHERS = [
    "consolidated.safetensors",
    "consolidated.00.pth",
    "pytorch_model.bin",
    "original/consolidated.00.safetensors",
    "model.fp16.safetensors",
    "adapter_model.safetensors",
    "onnx/model.onnx",
    "modeling_own.py",
]
INDEX = json.dumps({"weight_map": {"a": SHARDS[0], "b": SHARDS[1], "c": SHARDS[0]}})


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A hub with one repository: its files by name, what was fetched of it, and where it lies."""
    repository, fetched, commit = {}, [], tmp_path / "snapshots" / "4f1d"

    def download(repo, *, revision=None, allow_patterns=None, local_files_only=False):
        if local_files_only:
            if not commit.is_dir():
                raise FileNotFoundError(repo)
            return str(commit)
        for name in filter_repo_objects(repository, allow_patterns=allow_patterns):
            fetched.append(name)
            path = commit / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(repository[name])
        return str(commit)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("bipcore.hub._unreachable", lambda: None)
    repository.update(dict.fromkeys([*SMALL, *OTHERS], "x"))
    return repository, fetched, commit


def test_the_shards_that_the_index_names_are_fetched_and_no_other_weights(hub):
    repository, fetched, commit = hub
    repository.update({**dict.fromkeys(SHARDS, "x"), "model.safetensors.index.json": INDEX})
    repository["model.safetensors"] = "all of it again"
    assert model_folder("owner/name") == commit
    assert sorted(fetched) == sorted([*SMALL, *SHARDS, "model.safetensors.index.json"])
    fetched.clear()
    assert model_folder("owner/name") == commit
    assert fetched == []


def test_the_one_file_of_weights_is_fetched_where_there_is_no_index(hub):
    repository, fetched, _ = hub
    repository["model.safetensors"] = "x"
    model_folder("owner/name")
    assert sorted(fetched) == sorted([*SMALL, "model.safetensors"])


def test_pickled_weights_are_never_fetched(hub):
    _, fetched, _ = hub
    model_folder("owner/name")
    assert sorted(fetched) == sorted(SMALL)


def test_a_model_is_whole_with_all_that_its_index_names(tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors.index.json").write_text(INDEX)
    (tmp_path / SHARDS[0]).write_text("x")
    (tmp_path / "consolidated.safetensors").write_text("x")
    assert not has_weights(tmp_path)
    (tmp_path / SHARDS[1]).write_text("x")
    assert has_weights(tmp_path)


@pytest.mark.parametrize("text", ["[]", "{}", "[" * 100_000, '{"weight_map": [1]}', "x"])
def test_a_damaged_index_names_no_shards(tmp_path, text):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    assert named_weights(tmp_path) == {"model.safetensors"}
    assert not has_weights(tmp_path)
