"""Exports that cannot be: each is refused in one sentence and leaves nothing behind."""

from dataclasses import replace

import pytest
import torch

from bipcore.errors import InputError
from bipcore.export.export import read_export, save_pruned
from bipcore.models.tokenizer import save_tokenizer
from bipcore.pruning.slicing import apply_plan
from bipcore.recovery.lora import LoraAdapter, adapter_tensors, merged, with_adapter
from bipcore.specs import RecoverySpec
from bipcore.store.files import check_destination
from tests.helpers.folders import text_tokenizer, tree
from tests.helpers.pruning import mixed_plan, plan_for
from tests.helpers.tiny import tiny_model


def _save(folder, name: str = "llama", plan=None):
    plan = plan or plan_for(name)
    model = apply_plan(tiny_model(name), plan)
    return save_pruned(model, text_tokenizer(), folder, plan=plan)


def _contents(folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.mark.parametrize("applied", [0.0, 0.25])
def test_a_model_to_which_another_plan_was_applied_is_refused(tmp_path, out, applied):
    model = apply_plan(tiny_model("llama"), plan_for("llama", applied))
    with pytest.raises(InputError):
        save_pruned(model, text_tokenizer(), out, plan=plan_for("llama", 0.5))
    assert tree(tmp_path) == []


def test_the_dense_model_is_no_export_unless_it_was_fine_tuned(tmp_path, out):
    plan = plan_for("llama", 0.0)
    model = apply_plan(tiny_model("llama"), plan)
    with pytest.raises(InputError, match="removes nothing, so what it leaves is the dense"):
        save_pruned(model, text_tokenizer(), out, plan=plan)
    assert tree(tmp_path) == []
    spec = RecoverySpec(source="builtin", rank=2)
    adapter = LoraAdapter(spec, adapter_tensors(with_adapter(model, spec)))
    tuned = merged(model, adapter)
    assert save_pruned(tuned, text_tokenizer(), out, plan=plan, adapter=adapter).tier == 1


def test_a_folder_with_something_else_is_refused_and_left_alone(tmp_path, out):
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"holds something else \(thesis.txt\)"):
        _save(out)
    assert tree(tmp_path) == ["out", "out/thesis.txt"]


def test_a_folder_with_a_folder_in_it_is_refused_and_left_alone(tmp_path, out):
    (out / "kept").mkdir(parents=True)
    with pytest.raises(InputError, match="holds something else"):
        _save(out)
    assert tree(tmp_path) == ["out", "out/kept"]


def test_a_folder_with_a_link_in_it_is_refused_and_left_alone(tmp_path, out):
    out.mkdir()
    (out / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="holds something else"):
        _save(out)
    assert (out / "link").is_symlink()


def test_a_model_that_is_no_export_is_not_overwritten(out):
    tiny_model("llama").save_pretrained(out)
    before = _contents(out)
    with pytest.raises(InputError, match="holds something else"):
        _save(out)
    assert _contents(out) == before


def test_an_own_export_to_which_a_file_was_added_is_refused_and_left_alone(out):
    _save(out)
    (out / "notes.txt").write_text("mine")
    before = _contents(out)
    with pytest.raises(InputError, match=r"notes\.txt"):
        _save(out, plan=plan_for("llama", 0.25, unit="none"))
    assert _contents(out) == before


def test_a_file_is_refused_and_left_alone(out):
    out.write_text("x")
    with pytest.raises(InputError, match="is a file"):
        _save(out)
    assert out.read_text() == "x"


def test_an_empty_folder_is_used(tmp_path, out):
    out.mkdir()
    _save(out)
    assert tree(tmp_path)[0] == "out"
    assert {path.split("/")[0] for path in tree(tmp_path)} == {"out"}


def test_a_folder_is_made_with_its_parents(tmp_path):
    _save(tmp_path / "a" / "b")
    assert read_export(tmp_path / "a" / "b").model_class == "LlamaForCausalLM"


def test_an_own_earlier_export_is_replaced_whole(tmp_path, out):
    _save(out)
    before = tree(out)
    done = _save(out, plan=plan_for("llama", 0.25, unit="none"))
    assert read_export(out) == done
    assert done.parameters == plan_for("llama", 0.25, unit="none").pruned_shape.parameters
    assert tree(out) == before
    assert [path for path in tree(tmp_path) if "/" not in path] == ["out"]


def test_an_export_to_a_link_leaves_nothing_beside_it(tmp_path, out):
    (tmp_path / "real").mkdir()
    out.symlink_to(tmp_path / "real")
    _save(out)
    assert read_export(out).model_class == "LlamaForCausalLM"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "real"]


@pytest.mark.parametrize("place", ["/proc/no-such-folder", "/dev/null/out", "{tmp}/file/out", ""])
def test_a_place_that_cannot_be_written_is_refused(tmp_path, place):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError):
        _save(place.format(tmp=tmp_path))
    assert tree(tmp_path) == ["file"]


def test_a_name_that_no_folder_can_have_is_refused(tmp_path):
    with pytest.raises(InputError):
        check_destination(tmp_path / ("x" * 300))


def test_a_folder_that_cannot_be_looked_through_is_refused():
    with pytest.raises(InputError):
        check_destination("/proc")


def test_a_disk_too_small_for_the_weights_is_refused_before_writing(tmp_path, out, monkeypatch):
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("bipcore.store.files.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"disk of .* is full"):
        _save(out)
    assert tree(tmp_path) == []


def _save_mixed(folder):
    return _save(folder, "mistral", mixed_plan("mistral"))


@pytest.mark.parametrize("earlier", [True, False])
def test_a_modelling_file_that_is_not_that_of_bipcore_is_not_kept(
    tmp_path, out, monkeypatch, earlier
):
    if earlier:
        _save_mixed(out)
    before = _contents(tmp_path)

    def damaged(tokenizer, folder):
        save_tokenizer(tokenizer, folder)
        (folder / "modeling_pruned.py").write_text("raise SystemExit('this code was run')")

    monkeypatch.setattr("bipcore.export.folder.save_tokenizer", damaged)
    with pytest.raises(InputError, match="modelling file, read back, is not the one written"):
        _save_mixed(out)
    assert _contents(tmp_path) == before
    assert [path for path in tree(tmp_path) if "/" not in path] == ["out"] * earlier


def test_a_modelling_file_that_builds_another_model_is_not_kept(tmp_path, out, monkeypatch):
    from bipcore.models import modeling_pruned

    def other(block, *arguments):
        cut_block(block, *arguments)
        block.self_attn.scaling *= 2

    cut_block = modeling_pruned.cut_block
    monkeypatch.setattr(modeling_pruned, "cut_block", other)
    with pytest.raises(InputError, match="its logits, read back, differ"):
        _save_mixed(out)
    assert tree(tmp_path) == []


def test_weights_that_changed_on_the_way_are_not_kept(tmp_path, out, monkeypatch):
    from bipcore.export.formats import FORMATS

    usual = FORMATS["modelling-file"]

    def changed(model, plan):
        form = usual.form(model, plan)
        form.save_pretrained, save = None, form.save_pretrained

        def save_and_change(folder):
            save(folder)
            with torch.no_grad():
                form.lm_head.weight = torch.nn.Parameter(form.lm_head.weight + 1e-6)

        form.save_pretrained = save_and_change
        return form

    monkeypatch.setitem(FORMATS, usual.name, replace(usual, form=changed))
    with pytest.raises(InputError, match="are not those written"):
        _save_mixed(out)
    assert tree(tmp_path) == []


def test_an_export_with_a_modelling_file_is_replaced_by_one_without_and_back(tmp_path, out):
    first = _save_mixed(out)
    files = tree(out)
    assert "modeling_pruned.py" in files
    _save(out, "mistral")
    assert tree(out) == [file for file in files if not file.endswith(".py")]
    assert _save_mixed(out) == first
    assert tree(out) == files
