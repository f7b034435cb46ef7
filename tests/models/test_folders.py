"""What a model folder is, told from its files: what cannot be used is refused before it is read."""

import json
import os
import socket
import time
import warnings

import accelerate
import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from bipcore.errors import InputError
from bipcore.models.adapters import Adapter
from bipcore.models.loading import check_in_memory, find_model, load_config, load_model
from tests.helpers.folders import byte_model, edit_json, model_folder, text_tokenizer
from tests.helpers.tiny import CONFIGS, tiny_model, tiny_tokens


@pytest.fixture
def folder(tmp_path):
    return model_folder(tmp_path / "model")


@pytest.fixture
def sharded(tmp_path):
    folder = tmp_path / "sharded"
    byte_model().save_pretrained(folder, max_shard_size="200KB")
    text_tokenizer().save_pretrained(folder)
    return folder


def _refusal(folder) -> str:
    """The sentence with which the folder is refused."""
    with pytest.raises(InputError) as raised:
        load_model(str(folder))
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 1000
    return str(raised.value)


def _change_tensors(folder, change) -> None:
    """Write the weights of ``folder`` anew, as ``change`` makes them of what they are."""
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, {"format": "pt"})


def _put(kind: str, path) -> None:
    """Put something in the place of a file."""
    path.unlink(missing_ok=True)
    if kind == "a FIFO":
        os.mkfifo(path)
    elif kind == "a socket":
        socket.socket(socket.AF_UNIX).bind(os.path.relpath(path))
    elif kind == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path.with_name("nowhere"))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["a FIFO", "a socket", "a link to nothing"])
def test_what_is_no_file_is_named_and_never_opened(folder, monkeypatch, kind, name):
    monkeypatch.chdir(folder)
    _put(kind, folder / name)
    sentence = _refusal(folder)
    assert name in sentence
    assert kind in sentence or "No such file" in sentence


def test_a_folder_in_the_place_of_the_weights_is_refused(folder):
    _put("a folder", folder / "model.safetensors")
    assert "is a folder" in _refusal(folder)


def test_a_fifo_in_the_place_of_the_card_hides_the_licence_and_hangs_nothing(folder):
    os.mkfifo(folder / "README.md")
    assert find_model(str(folder)).licence == "unknown"


def test_a_shard_that_is_no_file_is_refused(sharded):
    shard = sorted(sharded.glob("*.safetensors"))[1]
    _put("a link to nothing", shard)
    assert shard.name in _refusal(sharded)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a": ' * 100_000, f'{{"a": {"9" * 5000}}}', "[]", '"x"', "\xff"]
)
def test_json_that_no_model_has_is_one_sentence(sharded, name, text):
    (sharded / name).write_text(text, "latin-1")
    assert name in _refusal(sharded)


@pytest.mark.parametrize("shard", ["../model.safetensors", "/etc/x.safetensors", "config.json", ""])
def test_an_index_that_points_outside_of_its_folder_is_refused(sharded, shard):
    index = sharded / "model.safetensors.index.json"
    said = json.loads(index.read_text())
    named = dict.fromkeys(said["weight_map"], shard)
    (sharded.parent / "model.safetensors").write_bytes(b"")
    edit_json(index, weight_map=named)
    assert "in its own folder" in _refusal(sharded)


def test_shards_in_a_folder_of_their_own_are_read(sharded):
    model, _ = load_model(str(sharded))
    (sharded / "parts").mkdir()
    index = sharded / "model.safetensors.index.json"
    names = json.loads(index.read_text())["weight_map"]
    for shard in sharded.glob("*.safetensors"):
        shard.rename(sharded / "parts" / shard.name)
    edit_json(index, weight_map={key: f"parts/{name}" for key, name in names.items()})
    again, _ = load_model(str(sharded))
    assert all(
        torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True)
    )


@pytest.mark.parametrize("layers", [0, -3, 10**9, 10**400, 2.0, True, "3", None])
def test_a_number_of_layers_that_no_model_has_is_refused_at_once(folder, layers):
    edit_json(folder / "config.json", num_hidden_layers=layers)
    start = time.perf_counter()
    assert "a whole number from 1 to" in _refusal(folder)
    with pytest.raises(InputError, match="a whole number from 1 to"):
        load_config(str(folder))
    assert time.perf_counter() - start < 10


def test_what_a_configuration_says_of_the_models_outputs_does_not_count(folder):
    wanted = load_model(str(folder))[0](tiny_tokens(1, 8))
    edit_json(folder / "config.json", return_dict=False, output_hidden_states=True)
    found = load_model(str(folder))[0](tiny_tokens(1, 8))
    assert torch.equal(found.logits, wanted.logits)
    assert found.hidden_states is None


def test_a_value_of_the_wrong_kind_is_named(folder):
    edit_json(folder / "config.json", rms_norm_eps="small")
    assert "'rms_norm_eps' expected float" in _refusal(folder)


@pytest.mark.parametrize("layers", [1, 2, 4, 1000])
def test_a_number_of_layers_that_the_weights_do_not_have_is_refused(folder, layers):
    edit_json(folder / "config.json", num_hidden_layers=layers)
    assert f"it says {layers:,} layers, and they have 3" in _refusal(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"vocab_size": 10**12},
        {"intermediate_size": 10**12},
        {"hidden_size": 2**40},
        {"head_dim": 10**10},
        {"num_attention_heads": 10**9, "num_key_value_heads": 10**9},
    ],
)
def test_sizes_beyond_all_memory_are_refused_from_the_headers(folder, monkeypatch, fields):
    def fail(*args, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    edit_json(folder / "config.json", **fields)
    _refusal(folder)


def test_weights_of_which_most_is_missing_are_refused_from_the_headers(folder, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    _change_tensors(folder, lambda tensors: {k: v for k, v in tensors.items() if "embed" not in k})
    edit_json(folder / "config.json", vocab_size=10**9)
    _change_tensors(
        folder, lambda tensors: {k: v for k, v in tensors.items() if "lm_head" not in k}
    )
    assert "2 tensors are missing" in _refusal(folder)


def test_a_missing_tensor_is_named(folder):
    lost = "model.layers.1.mlp.up_proj.weight"
    _change_tensors(folder, lambda tensors: {k: v for k, v in tensors.items() if k != lost})
    assert f"1 tensor is missing, {lost}" in _refusal(folder)


def test_a_bias_that_the_configuration_turns_off_is_not_left_out_in_silence(tmp_path):
    folder = model_folder(tmp_path / "biased", "llama-gqa")
    edit_json(folder / "config.json", attention_bias=False)
    assert "tensors are without a place in it" in _refusal(folder)


def test_an_adapter_among_the_weights_is_not_left_out_in_silence(folder):
    extra = {"model.layers.1.self_attn.q_proj.lora_A.weight": torch.ones(2, 64)}
    _change_tensors(folder, lambda tensors: tensors | extra)
    assert "1 tensor is without a place in it, model.layers.1" in _refusal(folder)


def test_a_dropout_that_is_no_share_is_refused(tmp_path):
    folder = model_folder(tmp_path / "opt", "opt")
    edit_json(folder / "config.json", dropout=2.0)
    assert "dropout is a share from 0 to 1, not 2.0" in _refusal(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"quantization_config": {"quant_method": "fp8", "weight_block_size": [32, 32]}},
        {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
        {"quantization_config": {"quant_method": "gptq", "bits": 4}},
        {"quantization_config": {"quant_method": "compressed-tensors"}},
        {"quantization_config": {}},
        {"quantization_config": "awq"},
        {"compression_config": {"quant_method": "compressed-tensors"}},
    ],
)
def test_a_quantised_model_is_refused_from_its_configuration(folder, fields):
    (folder / "model.safetensors").unlink()
    edit_json(folder / "config.json", **fields)
    sentence = _refusal(folder)
    assert "is quantised" in sentence
    assert "give the unquantised model" in sentence
    assert ("bipcore dequantise" in sentence) == ("fp8" in str(fields))


@pytest.mark.parametrize("name", ["quantize_config.json", "quant_config.json"])
def test_a_quantised_model_is_refused_from_a_file_beside_its_configuration(folder, name):
    (folder / name).write_text('{"bits": 4}')
    assert f"is quantised ({name})" in _refusal(folder)


@pytest.mark.parametrize(
    "dtype", [torch.int8, torch.uint8, torch.bool, torch.int32, torch.float8_e4m3fn]
)
def test_weights_that_are_no_floats_are_quantised_whatever_the_configuration(folder, dtype):
    key = "model.layers.1.mlp.up_proj.weight"
    _change_tensors(folder, lambda tensors: tensors | {key: tensors[key].to(dtype)})
    assert f"is quantised ({key} is of type" in _refusal(folder)


def test_packed_weights_are_quantised_whatever_the_configuration(folder):
    def pack(tensors):
        key = "model.layers.1.mlp.up_proj"
        tensors.pop(f"{key}.weight")
        return tensors | {f"{key}.qweight": torch.zeros(8, 96, dtype=torch.int32)}

    _change_tensors(folder, pack)
    assert "is quantised" in _refusal(folder)


def test_a_buffer_of_another_type_is_no_weight(folder):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.zeros(4, dtype=torch.int64)}
    _change_tensors(folder, lambda tensors: tensors | extra)
    assert load_model(str(folder))


@pytest.fixture
def adapter(tmp_path):
    """A folder with a LoRA adapter of the tiny model."""
    from peft import LoraConfig, get_peft_model

    folder = tmp_path / "adapter"
    settings = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    tuned = get_peft_model(byte_model(), settings)
    tuned.save_pretrained(folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path="owner/base")
    return folder


def test_an_adapter_alone_is_said_to_be_one_with_what_to_do(adapter):
    sentence = _refusal(adapter)
    assert "is an adapter and no model" in sentence
    assert f"bipcore merge {adapter} --base owner/base" in sentence


@pytest.mark.parametrize("text", ["[]", "{}", '{"base_model_name_or_path": 3}'])
def test_an_adapter_that_names_no_model_is_said_to_be_one_too(adapter, text):
    (adapter / "adapter_config.json").write_text(text)
    assert "--base MODEL" in _refusal(adapter)


def test_an_adapter_beside_a_model_is_not_used_and_that_is_said(folder, adapter):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        alone, _ = load_model(str(folder))
    for file in adapter.glob("adapter_*"):
        file.rename(folder / file.name)
    with pytest.warns(UserWarning, match="adapter beside the model .* is not used"):
        model, _ = load_model(str(folder))
    assert type(model) is type(alone)
    tokens = tiny_tokens(2, 8)
    assert torch.equal(model(tokens).logits, alone(tokens).logits)
    assert model.name_or_path == str(folder)


VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 5,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.fixture(params=["as transformers writes it", "under model.language_model"])
def gemma(request, tmp_path):
    """A tiny Gemma 3 that reads pictures, too, and its folder."""
    text = CONFIGS["gemma3"]().to_dict() | {"vocab_size": 260}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = tf.Gemma3Config(text_config=text, vision_config=VISION, mm_tokens_per_image=4)
        model = tf.Gemma3ForConditionalGeneration(config).eval()
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    folder = tmp_path / "gemma"
    model.save_pretrained(folder)
    text_tokenizer().save_pretrained(folder)
    if request.param != "as transformers writes it":
        names = {"language_model.model.": "model.language_model.", "vision_tower.": "model.vision."}

        def rename(tensors):
            renamed = {}
            for key, value in tensors.items():
                for old, new in names.items():
                    key = new + key.removeprefix(old) if key.startswith(old) else key
                renamed[key] = value
            return renamed

        _change_tensors(folder, rename)
    return model, folder


def test_the_language_model_of_a_gemma_that_reads_pictures_is_read(gemma):
    whole, folder = gemma
    model, _ = load_model(str(folder), dtype="float32")
    assert model.config.model_type == load_config(str(folder)).model_type == "gemma3_text"
    assert len(Adapter(model).blocks) == 3
    tokens = tiny_tokens(2, 24)
    assert torch.equal(model(tokens).logits, whole(input_ids=tokens).logits)


def test_the_language_model_is_written_as_one_that_reads_text_alone(gemma, tmp_path):
    _, folder = gemma
    model, tokenizer = load_model(str(folder), dtype="float32")
    model.save_pretrained(tmp_path / "text")
    tokenizer.save_pretrained(tmp_path / "text")
    assert "model.embed_tokens.weight" in load_file(tmp_path / "text" / "model.safetensors")
    again = tf.AutoModelForCausalLM.from_pretrained(tmp_path / "text")
    assert type(again).__name__ == "Gemma3ForCausalLM"
    tokens = tiny_tokens(2, 24)
    assert torch.equal(again(tokens).logits, model(tokens).logits)


@pytest.mark.parametrize("half", [None, [], {"num_hidden_layers": 0}])
def test_a_gemma_without_a_usable_language_model_is_refused(gemma, half):
    _, folder = gemma
    edit_json(folder / "config.json", text_config=half)
    _refusal(folder)


def test_other_models_that_read_pictures_are_refused_with_what_would_do(folder):
    edit_json(folder / "config.json", model_type="llava", text_config={"model_type": "llama"})
    sentence = _refusal(folder)
    assert "'llava' reads more than text" in sentence
    assert "its language model (llama)" in sentence


def test_a_model_whose_weights_wait_outside_of_the_device_is_refused():
    model = tiny_model("llama")
    check_in_memory("mine", model)
    accelerate.cpu_offload(model, execution_device=torch.device("cpu"))
    with pytest.raises(InputError, match="mine does not fit into the memory of the devices"):
        check_in_memory("mine", model)


def test_a_name_that_would_break_the_sentence_is_said_on_one_line(tmp_path):
    folder = tmp_path / "a \n\x1b[31mb"
    folder.mkdir()
    for text in ("[]", '{"model_type": "llama", "quantization_config": {"quant_method": "fp8"}}'):
        (folder / "config.json").write_text(text)
        assert "\x1b" not in _refusal(folder)
