"""An export in which anything changed is not taken for whole, and not loaded as if it were."""

import json
import shutil

import pytest

from bipcore.errors import InputError
from bipcore.export.export import load_pruned, read_export, same_export, save_pruned
from bipcore.models.loading import load_model
from bipcore.pruning.slicing import apply_plan
from bipcore.store.files import MANIFEST
from bipcore.store.manifest import changed
from tests.helpers.damage import DAMAGE
from tests.helpers.folders import text_tokenizer, without_checksums
from tests.helpers.pruning import plan_for
from tests.helpers.tiny import one_thread as one_thread
from tests.helpers.tiny import tiny_model

SOURCE = "a1b2"
FILES = ("config.json", "model.safetensors", "plan.json", "tokenizer.json", "README.md", MANIFEST)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An export that is whole."""
    folder, plan = tmp_path_factory.mktemp("exports") / "out", plan_for("llama")
    pruned = apply_plan(tiny_model("llama"), plan)
    save_pruned(pruned, text_tokenizer(), folder, plan=plan, source=SOURCE)
    return folder


@pytest.fixture
def out(exported, tmp_path):
    """A copy of its own."""
    return shutil.copytree(exported, tmp_path / "out")


def test_a_whole_export_is_recognised_and_loaded(out):
    assert same_export(out, SOURCE) == read_export(out)
    assert changed(out) is None
    load_pruned(out, device="cpu")


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("file", FILES)
def test_an_export_in_which_a_file_changed_is_not_taken_for_whole(out, file, damage):
    DAMAGE[damage](out / file)
    assert same_export(out, SOURCE) is None


@pytest.mark.parametrize("damage", ["a bit flipped", "truncated"])
@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "tokenizer.json"])
def test_an_export_in_which_a_file_changed_is_not_loaded_in_silence(out, file, damage):
    DAMAGE[damage](out / file)
    for load in (load_pruned, lambda folder, device: load_model(str(folder), device=device)):
        with pytest.raises(InputError, match=r"is not as bipcore exported it .* export it again"):
            load(out, device="cpu")


def test_an_export_in_which_a_file_is_missing_is_not_loaded(out):
    (out / "model.safetensors").unlink()
    with pytest.raises(InputError):
        load_pruned(out, device="cpu")


@pytest.mark.parametrize("file", ["README.md", "plan.json"])
def test_words_beside_a_model_may_change(out, file):
    (out / file).write_text("mine")
    load_pruned(out, device="cpu")


def test_a_model_that_was_trained_on_in_its_folder_is_loaded_without_the_manifest(out):
    DAMAGE["a bit flipped"](out / "model.safetensors")
    (out / MANIFEST).unlink()
    load_model(str(out), device="cpu")


def test_what_a_manifest_says_is_checked_too(out):
    said = json.loads((out / MANIFEST).read_text())
    (out / MANIFEST).write_text(json.dumps(said | {"max_logit_difference": 0.5}))
    assert same_export(out, SOURCE) is None


def test_an_export_of_a_version_without_checksums_is_loaded_and_made_again(out):
    without_checksums(out)
    assert same_export(out, SOURCE) is None
    load_pruned(out, device="cpu")


@pytest.mark.parametrize("fact", ["model_class", "parameters", "max_logit_difference"])
def test_a_manifest_that_lacks_something_is_one_sentence(out, fact):
    said = json.loads((out / MANIFEST).read_text())
    del said[fact]
    (out / MANIFEST).write_text(json.dumps(said))
    with pytest.raises(InputError, match="damaged; export it again"):
        read_export(out)
