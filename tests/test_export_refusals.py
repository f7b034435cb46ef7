"""Exports that cannot be: each is refused in one sentence and leaves nothing behind."""

import pytest
import transformers as tf

from bipcore.criteria import score
from bipcore.destination import check_destination
from bipcore.errors import InputError
from bipcore.export import read_export, save_pruned
from bipcore.plan import make_plan
from bipcore.slicing import apply_plan
from tests.folders import text_tokenizer, tree
from tests.pruning import mixed_plan, plan_for
from tests.tiny import CONFIGS, tiny_model


def _save(folder, name: str = "llama", plan=None):
    plan = plan or plan_for(name)
    model = apply_plan(tiny_model(name), plan)
    return save_pruned(model, text_tokenizer(), folder, plan=plan)


def _contents(folder) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.mark.parametrize("name", ["opt", "neox", "neox-sequential"])
def test_fewer_heads_are_refused_where_the_stock_class_cannot_load_them(tmp_path, out, name):
    with pytest.raises(InputError, match=r"cannot be loaded with fewer heads.*unit none"):
        _save(out, name)
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("name", "title"), [("gemma2", "Gemma 2"), ("gemma3", "Gemma 3"), ("llama-gqa", "LLaMA")]
)
def test_a_head_count_that_does_not_divide_is_refused_without_a_twin(tmp_path, out, name, title):
    plan = plan_for(name, 0.25)
    assert plan.pruned_shape.blocks[0].heads == 6
    with pytest.raises(InputError, match=rf"{title}.*divides the hidden size, and 6 does not"):
        _save(out, name, plan)
    assert tree(tmp_path) == []


@pytest.mark.parametrize("field", ["attention_bias", "mlp_bias"])
def test_a_llama_with_biases_has_no_mistral_twin(out, field):
    config = CONFIGS["llama"]()
    setattr(config, field, True)
    model = tf.AutoModelForCausalLM.from_config(config)
    plan = make_plan(score(model, None, "random"), sparsity=0.25)
    assert plan.pruned_shape.blocks[0].heads == 6
    with pytest.raises(InputError, match="6 does not divide 64"):
        save_pruned(apply_plan(model, plan), text_tokenizer(), out, plan=plan)


def test_blocks_of_different_widths_are_refused(tmp_path, out):
    with pytest.raises(InputError, match="different widths"):
        _save(out, "mistral", mixed_plan("mistral"))
    assert tree(tmp_path) == []


@pytest.mark.parametrize("applied", [0.0, 0.25])
def test_a_model_to_which_another_plan_was_applied_is_refused(tmp_path, out, applied):
    model = apply_plan(tiny_model("llama"), plan_for("llama", applied))
    with pytest.raises(InputError):
        save_pruned(model, text_tokenizer(), out, plan=plan_for("llama", 0.5))
    assert tree(tmp_path) == []


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
        _save(out, plan=plan_for("llama", 0.0))
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
    done = _save(out, plan=plan_for("llama", 0.0))
    assert read_export(out) == done
    assert done.parameters == plan_for("llama", 0.0).shape.parameters
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
    monkeypatch.setattr("bipcore.destination.shutil.disk_usage", lambda folder: usage)
    with pytest.raises(InputError, match=r"disk of .* is full"):
        _save(out)
    assert tree(tmp_path) == []
