"""Model folders that cannot be used: each is refused in one sentence, none with a traceback."""

import json
import time

import pytest
import torch

from bipcore.errors import InputError
from bipcore.models.loading import load_config, load_model
from tests.helpers.folders import byte_model, edit_json, model_folder, truncate


@pytest.fixture
def folder(tmp_path):
    return model_folder(tmp_path / "model")


def _refusal(folder) -> str:
    """The sentence with which the folder is refused."""
    with pytest.raises(InputError) as raised:
        load_model(str(folder))
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("load", [load_model, load_config])
@pytest.mark.parametrize("name", ["/nowhere/x", "./nowhere", "a/b/c", "~/nowhere-4f1d"])
def test_a_missing_folder_is_said_to_be_missing(load, name):
    with pytest.raises(InputError, match=f"The folder {name} does not exist"):
        load(name)


def test_a_file_is_not_a_model(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_text("x")
    assert "is a file" in _refusal(file)


def test_a_folder_without_a_configuration_is_refused(tmp_path):
    assert "no config.json" in _refusal(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "null", "[]", "{}", '{"model_type": ["llama"]}'])
def test_a_broken_configuration_is_refused(folder, text):
    (folder / "config.json").write_text(text)
    assert "config.json" in _refusal(folder)


@pytest.mark.parametrize(
    "fields",
    [
        {"hidden_size": "wide"},
        {"num_attention_heads": 7},
        {"num_attention_heads": 0},
        {"rope_parameters": 3},
        {"dtype": "no-such-type"},
    ],
)
def test_a_configuration_with_impossible_values_is_refused(folder, fields):
    edit_json(folder / "config.json", **fields)
    _refusal(folder)


@pytest.mark.parametrize("model_type", ["gpt2", "mixtral", "qwen3_moe", "bert", "no-such-type"])
def test_an_unsupported_architecture_is_refused_with_those_that_are_supported(tmp_path, model_type):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    sentence = _refusal(tmp_path)
    assert model_type in sentence
    assert all(name in sentence for name in ("LLaMA", "Qwen3", "OPT", "GPT-NeoX"))


def test_an_unsupported_architecture_is_refused_before_its_weights_are_read(folder, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("weights were read")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    edit_json(folder / "config.json", model_type="gpt2")
    assert "'gpt2' is not supported" in _refusal(folder)


def test_an_architecture_that_brings_its_own_code_is_refused_without_a_question(
    folder, monkeypatch
):
    asked = []
    monkeypatch.setattr("builtins.input", lambda question="": asked.append(question) or "n")
    auto_map = {"AutoConfig": "modeling_x.C", "AutoModelForCausalLM": "modeling_x.X"}
    edit_json(folder / "config.json", model_type="own", auto_map=auto_map)
    _refusal(folder)
    assert asked == []


def test_a_quantised_model_whose_library_is_missing_is_refused(folder):
    settings = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    edit_json(folder / "config.json", quantization_config=settings)
    _refusal(folder)


def test_truncated_weights_are_said_to_be_damaged(folder):
    truncate(folder / "model.safetensors")
    assert "damaged" in _refusal(folder)


@pytest.mark.parametrize("content", [b"", b"garbage!" * 100, b"\x02" + b"\0" * 7 + b"{]" * 50])
def test_weights_that_are_no_safetensors_are_said_to_be_damaged(folder, content):
    (folder / "model.safetensors").write_bytes(content)
    assert "damaged" in _refusal(folder)


def test_a_missing_shard_is_named(tmp_path):
    byte_model().save_pretrained(tmp_path, max_shard_size="200KB")
    missing = sorted(tmp_path.glob("*.safetensors"))[1]
    missing.unlink()
    assert missing.name in _refusal(tmp_path)


@pytest.mark.parametrize("text", ["{", "{}", "[]"])
def test_a_broken_index_of_shards_is_refused(tmp_path, text):
    byte_model().save_pretrained(tmp_path, max_shard_size="200KB")
    (tmp_path / "model.safetensors.index.json").write_text(text)
    _refusal(tmp_path)


def test_weights_of_other_widths_are_refused_in_words_that_stand_alone(folder):
    edit_json(folder / "config.json", intermediate_size=100)
    sentence = _refusal(folder)
    assert "do not fit its config.json" in sentence
    assert "above" not in sentence


def test_pickled_weights_are_not_loaded(folder):
    (folder / "model.safetensors").unlink()
    torch.save(byte_model().state_dict(), folder / "pytorch_model.bin")
    assert "no safetensors weights" in _refusal(folder)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    assert "tokenizer" in _refusal(folder)


@pytest.mark.parametrize("content", [b"not json", b"{}", b"\xff\xfe\x00"])
def test_a_broken_tokenizer_is_refused(folder, content):
    (folder / "tokenizer.json").write_bytes(content)
    assert "tokenizer" in _refusal(folder)


@pytest.mark.parametrize("content", [b"not json", b"[]", b"\xff\xfe\x00"])
def test_a_broken_configuration_of_the_tokenizer_is_refused(folder, content):
    (folder / "tokenizer_config.json").write_bytes(content)
    assert "tokenizer" in _refusal(folder)


def test_refusing_an_unreachable_model_takes_less_than_ten_seconds(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "https://hub.invalid")
    start = time.perf_counter()
    with pytest.raises(InputError, match=r"hub\.invalid cannot be reached"):
        load_model("bipcore-no-such-owner/no-such-model-4f1d")
    assert time.perf_counter() - start < 10
