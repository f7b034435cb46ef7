"""Models that are stored in fp8, written as plain weights: those that transformers reads."""

import json

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from torch.nn import functional

from bipcore.errors import InputError
from bipcore.export.dequantising import dequantise
from bipcore.models.loading import load_model
from tests.helpers.folders import edit_json, model_folder, tree
from tests.helpers.tiny import tiny_tokens

BLOCK = (32, 48)
SETTINGS = {
    "quant_method": "fp8",
    "activation_scheme": "dynamic",
    "weight_block_size": list(BLOCK),
    "modules_to_not_convert": ["lm_head"],
}


def _quantised(weight, block):
    """A weight (out, in) in fp8, and the scale of each block."""
    rows, columns = block or weight.shape
    short = (-weight.shape[0] % rows, -weight.shape[1] % columns)
    padded = functional.pad(weight, (0, short[1], 0, short[0]))
    tiles = padded.view(-1, rows, padded.shape[1] // columns, columns)
    scale = tiles.abs().amax((1, 3)) / 448
    spread = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    spread = spread[: weight.shape[0], : weight.shape[1]]
    return (weight / spread).to(torch.float8_e4m3fn), scale if block else scale.reshape(())


def _stored(tensors, block=BLOCK):
    made = {}
    for key, value in tensors.items():
        if key.endswith("_proj.weight"):
            made[key], made[f"{key}_scale_inv"] = _quantised(value, block)
        else:
            made[key] = value.to(torch.bfloat16)
    return made


@pytest.fixture
def fp8(tmp_path):
    """A tiny model that is stored in fp8."""
    folder = model_folder(tmp_path / "fp8")
    file = folder / "model.safetensors"
    save_file(_stored(load_file(file)), file, {"format": "pt"})
    edit_json(folder / "config.json", quantization_config=SETTINGS, dtype="bfloat16")
    return folder


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_the_weights_are_those_that_transformers_makes(tmp_path, fp8, dtype):
    even = SETTINGS | {"weight_block_size": [32, 32]}  # it reads no blocks that are cut off
    plain = load_file(model_folder(tmp_path / "again") / "model.safetensors")
    save_file(_stored(plain, (32, 32)), fp8 / "model.safetensors", {"format": "pt"})
    edit_json(fp8 / "config.json", quantization_config=even)
    done = dequantise(str(fp8), tmp_path / "plain", dtype=dtype)
    assert done.dtype == ("bfloat16" if dtype == "auto" else dtype)
    plain = tf.FineGrainedFP8Config(**even | {"dequantize": True})
    wanted = tf.AutoModelForCausalLM.from_pretrained(
        fp8, quantization_config=plain, dtype=getattr(torch, done.dtype)
    )
    found = load_file(tmp_path / "plain" / "model.safetensors")
    assert found.keys() == wanted.state_dict().keys()
    exact = {"rtol": 2**-6 if dtype == "auto" else 1e-6}  # it multiplies in bfloat16
    for key, value in wanted.state_dict().items():
        assert torch.allclose(found[key].float(), value.float(), **exact), key


def test_the_folder_is_a_plain_model_with_the_same_tokenizer(tmp_path, fp8):
    with pytest.raises(InputError, match=r"is quantised \(fp8\).*bipcore dequantise"):
        load_model(str(fp8))
    done = dequantise(str(fp8), tmp_path / "plain", dtype="float32")
    model, tokenizer = load_model(done.folder, device="cpu")
    assert "quantization_config" not in (tmp_path / "plain" / "config.json").read_text()
    assert tokenizer("abc")["input_ids"]
    tensors = load_file(fp8 / "model.safetensors")
    key = "model.layers.1.mlp.down_proj.weight"
    scale = tensors[f"{key}_scale_inv"].repeat_interleave(32, 0).repeat_interleave(48, 1)
    assert torch.equal(model.state_dict()[key], tensors[key].float() * scale[:64, :96])
    assert torch.isfinite(model(tiny_tokens(2, 8)).logits).all()


def test_scales_of_whole_tensors_are_read_too(tmp_path, fp8):
    file = fp8 / "model.safetensors"
    plain = load_file(model_folder(tmp_path / "again") / "model.safetensors")
    save_file(_stored(plain, None), file, {"format": "pt"})
    edit_json(fp8 / "config.json", quantization_config=SETTINGS | {"weight_block_size": None})
    done = dequantise(str(fp8), tmp_path / "plain", dtype="float32")
    found = load_file(tmp_path / "plain" / "model.safetensors")
    for key, value in plain.items():
        assert torch.allclose(found[key], value, atol=0.05), key
    assert done.bytes == 4 * done.parameters


def test_a_scale_may_lie_in_another_shard_than_its_weight(tmp_path, fp8):
    whole = dequantise(str(fp8), tmp_path / "whole")
    tensors = load_file(fp8 / "model.safetensors")
    (fp8 / "model.safetensors").unlink()
    shards = {"model-1.safetensors": {}, "model-2.safetensors": {}}
    for key, value in tensors.items():
        shards["model-2.safetensors" if "scale" in key or "3" in key else "model-1.safetensors"][
            key
        ] = value
    named = {key: name for name, of_file in shards.items() for key in of_file}
    for name, of_file in shards.items():
        save_file(of_file, fp8 / name, {"format": "pt"})
    (fp8 / "model.safetensors.index.json").write_text(json.dumps({"weight_map": named}))
    sharded = dequantise(str(fp8), tmp_path / "sharded")
    pair = [load_model(each.folder, device="cpu")[0].state_dict() for each in (whole, sharded)]
    assert all(torch.equal(value, pair[1][key]) for key, value in pair[0].items())


def _refusal(fp8, tmp_path, **settings) -> str:
    before = tree(tmp_path)
    with pytest.raises(InputError) as raised:
        dequantise(str(fp8), tmp_path / "plain", **settings)
    assert tree(tmp_path) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"quant_method": "gptq", "bits": 4},
        {"quant_method": ["fp8"]},
        SETTINGS | {"weight_block_size": [16, 48]},
        SETTINGS | {"weight_block_size": [0, 48]},
        SETTINGS | {"weight_block_size": "x"},
        SETTINGS | {"weight_block_size": None},
    ],
)
def test_settings_that_the_weights_do_not_fit_are_refused(tmp_path, fp8, fields):
    edit_json(fp8 / "config.json", quantization_config=fields)
    assert "is quantised" in _refusal(fp8, tmp_path)


@pytest.mark.parametrize("dtype", [None, torch.uint8])
def test_a_weight_without_its_scale_is_refused(tmp_path, fp8, dtype):
    file = fp8 / "model.safetensors"
    tensors = load_file(file)
    scale = tensors.pop("model.layers.1.mlp.up_proj.weight_scale_inv")
    if dtype is not None:
        tensors["model.layers.1.mlp.up_proj.weight_scale_inv"] = scale.to(dtype)
    save_file(tensors, file)
    assert "has no scale of numbers beside it" in _refusal(fp8, tmp_path)


def test_a_model_that_is_not_quantised_needs_nothing(tmp_path, fp8):
    assert "is not quantised" in _refusal(model_folder(tmp_path / "plain-model"), tmp_path)


def test_an_unknown_type_is_refused(tmp_path, fp8):
    assert "there are auto" in _refusal(fp8, tmp_path, dtype="int8")


def test_the_command_writes_the_folder(run_json, fp8, tmp_path):
    found = run_json("dequantise", fp8, "--output", tmp_path / "plain")
    assert found["dtype"] == "bfloat16"
    assert found["folder"] == str(tmp_path / "plain")
