"""Which format an export takes, and that a new one needs its own file and no more."""

import json
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from bipcore.errors import InputError
from bipcore.export.base import Format
from bipcore.export.export import Export, load_pruned, read_export, save_pruned
from bipcore.export.formats import FORMATS, choose_format, find_format
from bipcore.models.loading import load_model
from bipcore.pruning.slicing import apply_plan, shallow_clone
from tests.helpers.folders import edit_json, text_tokenizer, tree
from tests.helpers.pruning import assert_same_outputs, mixed_plan, plan_for
from tests.helpers.tiny import CONFIGS, tiny_model
from tests.helpers.tiny import one_thread as one_thread

SAME, MIXED = plan_for("llama"), mixed_plan("llama")
CONFIG = CONFIGS["llama"]()


def _save(folder, plan=SAME, **options) -> Export:
    model = apply_plan(tiny_model("llama"), plan)
    return save_pruned(model, text_tokenizer(), folder, plan=plan, **options)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def test_the_formats_are_listed_by_their_names():
    assert [*FORMATS] == [one.name for one in FORMATS.values()]
    assert [*FORMATS][:2] == ["stock", "modelling-file"]
    assert [FORMATS[name].tier for name in ("stock", "modelling-file")] == [1, 2]
    assert all(one.title for one in FORMATS.values())


def test_auto_is_the_first_format_that_can_hold_the_plan():
    assert choose_format(SAME, CONFIG) == (FORMATS["stock"], None)
    chosen, reason = choose_format(MIXED, CONFIG)
    assert chosen is FORMATS["modelling-file"]
    assert reason == FORMATS["stock"].problem(MIXED, CONFIG)


def test_a_name_is_that_format_and_no_other():
    assert choose_format(SAME, CONFIG, name="modelling-file") == (FORMATS["modelling-file"], None)
    with pytest.raises(InputError, match="different widths"):
        choose_format(MIXED, CONFIG, name="stock")


@pytest.mark.parametrize("name", ["onnx", "", "Stock"])
def test_an_unknown_format_is_refused_with_the_known_ones(tmp_path, out, name):
    for call in (lambda: find_format(name), lambda: _save(out, format=name)):
        with pytest.raises(InputError, match="there are auto, stock, modelling-file, gguf"):
            call()
    assert tree(tmp_path) == []


def test_a_format_that_cannot_hold_the_plan_is_refused_and_nothing_written(tmp_path, out):
    with pytest.raises(InputError, match="different widths"):
        _save(out, MIXED, format="stock")
    assert tree(tmp_path) == []


@pytest.mark.parametrize(("plan", "name"), [(SAME, "stock"), (MIXED, "modelling-file")])
def test_the_export_says_its_format(out, plan, name):
    done = _save(out, plan)
    assert done.format == json.loads((out / "bipcore.json").read_text())["export_format"] == name
    assert read_export(out) == done


@pytest.mark.parametrize(("plan", "name"), [(SAME, "stock"), (MIXED, "modelling-file")])
def test_an_export_of_before_the_formats_had_names_is_read_by_its_tier(out, plan, name):
    done = _save(out, plan)
    manifest = json.loads((out / "bipcore.json").read_text())
    del manifest["export_format"]
    (out / "bipcore.json").write_text(json.dumps(manifest))
    assert read_export(out) == done
    assert done.format == name


@pytest.mark.parametrize("sparsity", [0.25, 0.5])
def test_a_modelling_file_can_be_asked_for_where_none_is_needed(out, sparsity):
    plan = plan_for("llama", sparsity)
    done = _save(out, plan, format="modelling-file")
    assert (done.tier, done.model_class) == (2, "PrunedLlamaForCausalLM")
    assert "It was asked for in this form. So this folder has" in (out / "README.md").read_text()
    assert_same_outputs(load_pruned(out, device="cpu")[0], apply_plan(tiny_model("llama"), plan))


def _write(form, tokenizer, folder) -> None:
    save_file({name: t.contiguous() for name, t in form.state_dict().items()}, folder / "w.own")


def _read_back(folder, form):
    again = shallow_clone(form)
    again.load_state_dict(load_file(folder / "w.own"), assign=True)
    return again


OWN = Format(
    name="own",
    title="A format of this test",
    tier=2,
    problem=lambda plan, config, model=None: None if plan.uniform else "It needs equal widths.",
    form=lambda model, plan: model,
    write=_write,
    read_back=_read_back,
    loading_code=lambda folder: f'load("{folder}/w.own")',
    card="Only `load` reads {name}.",
    notice="A file of its own.",
)


def test_a_new_format_needs_a_file_and_a_line_in_the_list(out, monkeypatch):
    monkeypatch.setitem(FORMATS, "own", OWN)
    assert _save(out).format == "stock"
    done = _save(out, format="own")
    assert asdict(done).items() >= {"format": "own", "tier": 2, "max_logit_difference": 0.0}.items()
    assert set(tree(out)) == {"w.own", "plan.json", "README.md", "bipcore.json"}
    card = (out / "README.md").read_text()
    assert 'load("path/to/out/w.own")' in card
    assert "Only `load` reads out." in card
    assert "trust_remote_code" not in card
    with pytest.raises(InputError, match="It needs equal widths"):
        _save(out, MIXED, format="own")


@pytest.mark.parametrize(("by", "sentence"), [(1e-6, "are not those written"), (None, "differ by")])
def test_what_a_new_format_reads_back_is_compared(tmp_path, out, monkeypatch, by, sentence):
    def read_back(folder, form):
        again = _read_back(folder, form)
        if by is None:  # the weights are right, but it is another model
            again.model.layers[0].self_attn.scaling *= 2
        else:
            with torch.no_grad():
                again.lm_head.weight = torch.nn.Parameter(again.lm_head.weight + by)
        return again

    monkeypatch.setitem(FORMATS, "own", replace(OWN, read_back=read_back))
    with pytest.raises(InputError, match=sentence):
        _save(out, format="own")
    assert tree(tmp_path) == []


def test_an_export_in_a_format_that_is_not_known_here_is_still_read(out):
    done = _save(out)
    edit_json(out / "bipcore.json", export_format="newer")
    assert read_export(out) == replace(done, format="newer")
    load_model(str(out), device="cpu")
