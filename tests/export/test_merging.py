"""A LoRA adapter merged into its model: what is written, and what is refused."""

import json

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from bipcore.errors import InputError
from bipcore.export.merging import adapters_base, merge_adapter
from bipcore.models.loading import load_model
from tests.helpers.folders import byte_model, edit_json, model_folder, tree
from tests.helpers.tiny import tiny_tokens


@pytest.fixture
def base(tmp_path):
    return str(model_folder(tmp_path / "base"))


def _tuned(**settings):
    with torch.random.fork_rng():
        torch.manual_seed(3)
        said = {"r": 2, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False}
        return get_peft_model(byte_model(), LoraConfig(**said | settings)).eval()


@pytest.fixture
def adapter(tmp_path, base):
    folder = tmp_path / "adapter"
    _tuned().save_pretrained(folder)
    edit_json(folder / "adapter_config.json", base_model_name_or_path=base)
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_dora": True},
        {"use_rslora": True, "lora_alpha": 3, "rank_pattern": {"down_proj": 4}},
        {"modules_to_save": ["lm_head"]},
    ],
)
def test_the_merged_model_says_what_model_and_adapter_say(tmp_path, base, settings):
    tuned = _tuned(**settings)
    tuned.save_pretrained(tmp_path / "adapter")
    done = merge_adapter(tmp_path / "adapter", base, tmp_path / "merged", device="cpu")
    model, tokenizer = load_model(done.folder, device="cpu")
    assert type(model).__name__ == done.model_class == "LlamaForCausalLM"
    assert done.parameters == sum(value.numel() for value in byte_model().parameters())
    tokens = tiny_tokens(2, 16)
    assert torch.allclose(model(tokens).logits, tuned(tokens).logits, atol=1e-4)
    assert tokenizer("abc")["input_ids"] == load_model(base, device="cpu")[1]("abc")["input_ids"]


def test_it_is_written_in_the_type_that_the_model_is_stored_in(tmp_path, adapter):
    folder = tmp_path / "half"
    byte_model().to(torch.bfloat16).save_pretrained(folder)
    load_model(adapters_base(adapter), device="cpu")[1].save_pretrained(folder)
    merge_adapter(adapter, str(folder), tmp_path / "merged", device="cpu")
    tensors = load_file(tmp_path / "merged" / "model.safetensors")
    assert {value.dtype for value in tensors.values()} == {torch.bfloat16}


def test_an_earlier_one_is_replaced_and_nothing_else_is(tmp_path, adapter, base):
    for _ in range(2):
        merge_adapter(adapter, base, tmp_path / "merged", device="cpu")
    (tmp_path / "merged" / "notes.txt").write_text("mine")
    before = tree(tmp_path)
    with pytest.raises(InputError, match=r"notes\.txt"):
        merge_adapter(adapter, base, tmp_path / "merged", device="cpu")
    assert tree(tmp_path) == before


def test_the_model_that_an_adapter_names_is_read_from_it(adapter, base):
    assert adapters_base(adapter) == base
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(InputError, match="--base"):
        adapters_base(adapter)


def _refusal(adapter, base, tmp_path) -> str:
    """The sentence with which a merge is refused; nothing is left of it."""
    before = tree(tmp_path)
    with pytest.raises(InputError) as raised:
        merge_adapter(adapter, base, tmp_path / "merged", device="cpu")
    assert tree(tmp_path) == before
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"peft_type": "IA3"},
        {"peft_type": ["LORA"]},
        {"r": 10**9},
        {"r": 0},
        {"r": "2"},
        {"r": 3},
        {"rank_pattern": {"q_proj": 10**9}},
        {"target_modules": ["none_such"]},
        {"target_modules": ["q_proj"]},
    ],
)
def test_settings_that_the_weights_do_not_fit_are_refused(tmp_path, adapter, base, fields):
    edit_json(adapter / "adapter_config.json", **fields)
    _refusal(adapter, base, tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, "{}"])
def test_what_is_no_adapter_is_refused(tmp_path, adapter, base, text):
    (adapter / "adapter_config.json").write_text(text)
    assert "adapter" in _refusal(adapter, base, tmp_path)


def test_an_adapter_of_another_model_is_refused(tmp_path, adapter, base):
    file = adapter / "adapter_model.safetensors"
    tensors = load_file(file)
    name = next(key for key in tensors if "lora_B" in key)
    save_file(tensors | {name: torch.zeros(3, 2)}, file)
    assert "made for another model" in _refusal(adapter, base, tmp_path)


def test_weights_that_are_no_numbers_are_refused(tmp_path, adapter, base):
    file = adapter / "adapter_model.safetensors"
    save_file({name: value * torch.nan for name, value in load_file(file).items()}, file)
    assert "cannot be merged" in _refusal(adapter, base, tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"garbage"])
def test_an_adapter_without_readable_weights_is_refused(tmp_path, adapter, base, content):
    file = adapter / "adapter_model.safetensors"
    file.unlink()
    (adapter / "adapter_model.bin").write_bytes(b"pickled")
    if content is not None:
        file.write_bytes(content)
    _refusal(adapter, base, tmp_path)


def test_the_command_merges_what_the_adapter_names(run_json, adapter, base, tmp_path):
    found = run_json("merge", adapter, "--output", tmp_path / "merged", "--device", "cpu")
    assert found["base"] == base
    assert found["folder"] == str(tmp_path / "merged")
    assert json.loads((tmp_path / "merged" / "config.json").read_text())["model_type"] == "llama"
