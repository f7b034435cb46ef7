"""The modelling file: what it is made of, and the classes that bipcore gets from its own copy."""

import ast
import json
import sys

import pytest
import torch
import transformers as tf
from torch import nn

from bipcore.errors import InputError
from bipcore.export.export import load_pruned, save_pruned
from bipcore.models import modeling_pruned
from bipcore.models.adapters import Adapter
from bipcore.models.families import FAMILIES as KNOWN
from bipcore.models.families import base_type, check_supported
from bipcore.models.loading import empty_model, load_config, load_model
from bipcore.models.pruned_classes import (
    MODELLING_FILE,
    block_configs,
    classes_of,
    is_pruned_type,
    layout_of,
)
from bipcore.models.shapes import BlockShape
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan, masked_model
from tests.helpers.folders import edit_json, model_folder, text_tokenizer, without_checksums
from tests.helpers.pruning import assert_same_outputs, logits_of, mixed_plan
from tests.helpers.tiny import FAMILIES, tiny_model
from tests.helpers.tiny import one_thread as one_thread
from tests.test_imports import imports_of


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def _export(folder, name: str = "llama"):
    """An export whose files a test may change."""
    plan = mixed_plan(name)
    model = apply_plan(tiny_model(name), plan)
    done = save_pruned(model, text_tokenizer(), folder, plan=plan)
    without_checksums(folder)
    return done


def test_the_modelling_file_needs_no_more_than_transformers_needs():
    packages = {name.split(".")[0] for name in imports_of(MODELLING_FILE.read_text())}
    standard = {"dataclasses", "functools", "typing"}
    assert packages - standard == {"huggingface_hub", "torch", "transformers"}


def test_the_modelling_file_only_defines_classes_and_functions():
    _, *body = ast.parse(MODELLING_FILE.read_text()).body  # the first is the docstring
    names = [node for node in body if isinstance(node, ast.Assign)]
    assert {ast.unparse(node.value.func) for node in names} == {"pruned"}
    allowed = (ast.Import, ast.ImportFrom, ast.ClassDef, ast.FunctionDef)
    assert all(isinstance(node, allowed) for node in body if node not in names)


def test_the_modelling_file_is_short():
    assert len(MODELLING_FILE.read_text().splitlines()) < 300


@pytest.mark.parametrize("name", FAMILIES)
def test_the_family_knows_the_biases_of_the_stock_class(name):
    model = tiny_model(name)
    for block in Adapter(model).blocks:
        flags = [
            getattr(model.config, flag) if isinstance(flag, str) else flag
            for flag in block.family.output_biases
        ]
        assert flags == [block.o.bias is not None, block.down.bias is not None]


@pytest.mark.parametrize("kind", KNOWN)
def test_the_classes_are_the_stock_ones_cut_down(kind):
    classes = classes_of(kind)
    stock = tf.CONFIG_MAPPING[kind]
    assert classes.config.__mro__[2] is stock
    assert classes.model.__mro__[2] is tf.MODEL_FOR_CAUSAL_LM_MAPPING[stock]
    assert classes.config.model_type == f"pruned_{kind}"
    assert classes_of(f"pruned_{kind}") == classes
    assert classes.base.__mro__[2] is tf.MODEL_MAPPING[stock]
    pairs = ((one, one.__mro__[2]) for one in (classes.config, classes.model, classes.base))
    for one, base in pairs:
        assert getattr(modeling_pruned, one.__name__) is one
        assert one.__name__ == one.__qualname__ == f"Pruned{base.__name__}"


def test_a_family_that_transformers_lacks_does_no_harm_to_the_others():
    assert modeling_pruned.pruned("NewerConfig", "NewerForCausalLM") == (None,) * 3


@pytest.mark.parametrize("name", FAMILIES)
def test_the_layout_says_where_the_linear_layers_are_and_what_their_rows_belong_to(name):
    model = tiny_model(name)
    layout, block = layout_of(model.config.model_type), Adapter(model).blocks[0]
    assert model.get_submodule(layout["blocks"])[0] is block.module
    attention = block.module.get_submodule(layout["attention"])
    assert attention.get_submodule(layout["query"]) is block.qkv[0]
    assert attention.get_submodule(layout["output"]) is block.o
    assert block.module.get_submodule(layout["down"]) is block.down
    shape, width = block.shape, block.head_dim
    sizes = {"heads": shape.heads * width, "kv_heads": shape.kv_heads * width}
    sizes["channels"] = shape.channels
    expected = {linear: linear.out_features for linear in (*block.qkv, *block.ffn_in)}
    assert expected == {
        block.module.get_submodule(path): sum(sizes[part] for part in parts)
        for path, parts in layout["rows"].items()
    }


def test_a_pruned_type_is_that_of_a_known_family():
    assert is_pruned_type("pruned_llama")
    assert not any(map(is_pruned_type, ("llama", "pruned_bert", "pruned_", None, 3)))
    assert base_type("pruned_opt") == base_type("opt") == "opt"
    assert check_supported("pruned_opt") is KNOWN["opt"]
    with pytest.raises(InputError, match="'pruned_bert' is not supported"):
        check_supported("pruned_bert")


def test_writing_and_reading_leave_the_modules_of_transformers_alone(out, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("transformers was asked to run code of a folder")

    monkeypatch.setattr("transformers.dynamic_module_utils.get_cached_module_file", fail)
    monkeypatch.setattr("transformers.dynamic_module_utils.get_class_in_module", fail)
    _export(out)
    load_pruned(out, device="cpu")
    before = set(sys.modules)
    _export(out)
    load_pruned(out, device="cpu")
    assert set(sys.modules) == before


def test_the_configuration_and_sizes_are_known_without_weights(out):
    _export(out, "opt")
    config = load_config(str(out))
    widths = {"num_attention_heads": 8, "num_key_value_heads": 8, "ffn_dim": 96}
    assert config.block_configs[0] == widths
    assert Adapter(empty_model(config)).shape == Adapter(load_model(str(out))[0]).shape


@pytest.mark.parametrize(
    "fields",
    [
        {"block_configs": None},
        {"block_configs": [{}]},
        {"block_configs": [{}] * 3},
        {"block_configs": "all"},
        {"block_widths": "all"},
        {"block_widths": [[8, 8]]},
    ],
)
def test_a_configuration_that_does_not_say_the_widths_is_one_sentence(out, fields):
    _export(out)
    edit_json(out / "config.json", **fields)
    (out / "bipcore.json").unlink()
    with pytest.raises(InputError) as raised:
        load_model(str(out), device="cpu")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["llama", "opt"])
def test_the_widths_are_said_in_the_fields_that_say_them_of_a_whole_model(name):
    shapes = [BlockShape(8, 2, 96), BlockShape(0, 0, 5), BlockShape(4, 2, 0)]
    channels = "ffn_dim" if name == "opt" else "intermediate_size"
    assert block_configs(name, shapes) == [
        {"num_attention_heads": 8, "num_key_value_heads": 2, channels: 96},
        {channels: 5, "skip": ["attention"]},
        {"num_attention_heads": 4, "num_key_value_heads": 2, "skip": ["mlp"]},
    ]


@pytest.mark.parametrize("name", ["llama", "opt", "phi3"])
def test_the_fields_of_the_whole_model_stay_whole_numbers(out, name):
    _export(out, name)
    config = load_config(str(out))
    assert config.num_attention_heads == 8
    assert getattr(config, KNOWN[name].channels_field) == 96


@pytest.mark.parametrize("name", ["llama", "opt", "phi3"])
def test_an_export_that_says_its_widths_as_earlier_ones_did_is_still_loaded(out, name):
    done = _export(out, name)
    expected, _ = load_pruned(out, device="cpu")
    config = json.loads((out / "config.json").read_text())
    del config["block_configs"], config["block_layout"]
    widths = [[b.heads, b.kv_heads, b.channels] for b in Adapter(expected).shape.blocks]
    (out / "config.json").write_text(json.dumps(config | {"block_widths": widths}))
    (out / "bipcore.json").unlink()
    model, _ = load_model(str(out), device="cpu")
    assert_same_outputs(model, expected)
    assert not hasattr(model.config, "block_widths")
    assert sum(parameter.numel() for parameter in model.parameters()) == done.parameters


def test_weights_that_do_not_have_the_widths_are_refused(out):
    _export(out)
    shapes = [BlockShape(8, 8, 96), BlockShape(4, 4, 20), BlockShape(4, 4, 20)]
    edit_json(out / "config.json", block_configs=block_configs("llama", shapes))
    (out / "bipcore.json").unlink()
    with pytest.raises(InputError, match="do not fit its config"):
        load_model(str(out), device="cpu")


@pytest.mark.parametrize("name", ["llama-gqa", "phi3", "opt", "neox", "gemma3"])
def test_a_loaded_export_can_be_pruned_and_exported_again(tmp_path, out, name):
    _export(out, name)
    once, tokenizer = load_pruned(out, device="cpu")
    shape = Adapter(once).shape
    blocks = [BlockPlan(tuple(range(b.heads)), tuple(range(b.channels))) for b in shape.blocks]
    blocks[0], blocks[2] = BlockPlan((), ()), BlockPlan(blocks[2].heads, (1, 2))
    plan = PruningPlan(shape, tuple(blocks))
    twice = apply_plan(once, plan)
    assert_same_outputs(twice, masked_model(once, plan))
    widths = block_configs(once.config.model_type, plan.pruned_shape.blocks)
    assert twice.config.block_configs == widths != once.config.block_configs
    assert save_pruned(twice, tokenizer, tmp_path / "again", plan=plan).tier == 2
    assert_same_outputs(load_pruned(tmp_path / "again", device="cpu")[0], twice)


def test_a_loaded_export_whose_blocks_become_equal_is_plain_again(tmp_path, out):
    _export(out, "qwen2")
    once, tokenizer = load_pruned(out, device="cpu")
    shape = Adapter(once).shape
    assert len(set(shape.blocks)) == 2
    equal = BlockPlan((0, 2, 4, 6), tuple(range(5)))
    some = BlockPlan(tuple(range(shape.blocks[1].heads)), tuple(range(5)))
    plan = PruningPlan(shape, (equal, some, some))
    assert plan.uniform
    twice = apply_plan(once, plan)
    done = save_pruned(twice, tokenizer, tmp_path / "again", plan=plan)
    assert (done.tier, done.model_class) == (1, "Qwen2ForCausalLM")
    model, _ = load_pruned(tmp_path / "again", device="cpu")
    assert type(model) is tf.Qwen2ForCausalLM
    assert_same_outputs(model, twice)


def test_an_added_bias_of_zero_is_still_a_bias(out):
    plan = mixed_plan("llama")
    model = apply_plan(tiny_model("llama"), plan)
    Adapter(model).blocks[1].down.bias = nn.Parameter(torch.zeros(64))
    save_pruned(model, text_tokenizer(), out, plan=plan)
    config = load_config(str(out))
    assert config.output_biases == [[False, False], [False, True], [False, False]]


def test_a_folder_of_another_tool_with_code_is_still_not_run(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "modeling_x.py").write_text("raise SystemExit('this code was run')")
    edit_json(
        folder / "config.json",
        model_type="pruned_bert",
        auto_map={"AutoConfig": "modeling_x.C", "AutoModelForCausalLM": "modeling_x.M"},
    )
    with pytest.raises(InputError, match="'pruned_bert' is not supported"):
        load_model(str(folder))


def _as_written_before(folder) -> None:
    """Make an export what it was when each family had a file of its own, which knew the layout."""
    config = json.loads((folder / "config.json").read_text())
    file = f"modeling_{config['model_type']}"
    auto_map = {name: f"{file}.{path.split('.')[1]}" for name, path in config["auto_map"].items()}
    del config["block_layout"]
    (folder / "config.json").write_text(json.dumps(config | {"auto_map": auto_map}))
    (folder / MODELLING_FILE.name).rename(folder / f"{file}.py")
    (folder / f"{file}.py").write_text("raise SystemExit('this code was run')")
    (folder / "bipcore.json").unlink()  # it says what was written


@pytest.mark.parametrize("name", FAMILIES)
def test_an_export_that_does_not_say_its_layout_is_loaded(tmp_path, out, name):
    _export(out, name)
    expected, _ = load_pruned(out, device="cpu")
    _as_written_before(out)
    model, tokenizer = load_model(str(out), device="cpu")
    assert torch.equal(logits_of(model), logits_of(expected))
    assert Adapter(empty_model(load_config(str(out)))).shape == Adapter(model).shape
    plan = _one_channel_less(model)
    done = save_pruned(apply_plan(model, plan), tokenizer, tmp_path / "again", plan=plan)
    assert (done.tier, done.max_logit_difference) == (2, 0)
    assert load_config(str(tmp_path / "again")).auto_map == expected.config.auto_map


def _one_channel_less(model) -> PruningPlan:
    shape = Adapter(model).shape
    blocks = (BlockPlan(tuple(range(b.heads)), tuple(range(1, b.channels))) for b in shape.blocks)
    return PruningPlan(shape, tuple(blocks))


def test_the_layout_is_not_taken_from_the_folder(out):
    _export(out)
    edit_json(out / "config.json", block_layout=layout_of("opt"))
    (out / "bipcore.json").unlink()
    model, _ = load_model(str(out), device="cpu")
    assert model.config.block_layout == layout_of("llama")


def test_a_loaded_export_can_be_saved_by_transformers_with_its_file(tmp_path, out):
    _export(out)
    model, _ = load_pruned(out, device="cpu")
    model.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / MODELLING_FILE.name).read_bytes() == MODELLING_FILE.read_bytes()
    config = json.loads((tmp_path / "again" / "config.json").read_text())
    assert config["auto_map"] == {
        "AutoConfig": "modeling_pruned.PrunedLlamaConfig",
        "AutoModel": "modeling_pruned.PrunedLlamaModel",
        "AutoModelForCausalLM": "modeling_pruned.PrunedLlamaForCausalLM",
    }
