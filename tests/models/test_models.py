"""Loading models: from folders, from the hub's cache, and the demo model."""

import shutil

import pytest
import torch
from transformers import AutoConfig

from bipcore.errors import InputError
from bipcore.models.adapters import Adapter
from bipcore.models.loading import demo_identity, empty_model, find_model, load_config, load_model
from bipcore.models.shapes import BlockShape
from tests.helpers.folders import byte_model, model_folder

UNKNOWN = "bipcore-no-such-owner/no-such-model-4f1d"


@pytest.fixture
def folder(tmp_path):
    return model_folder(tmp_path / "model")


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and the hub out of reach."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def _downloaded(cache, name):
    """The folder in which the hub library keeps the downloaded model ``name``."""
    repo = cache / f"models--{name.replace('/', '--')}"
    (repo / "refs").mkdir(parents=True)
    (repo / "refs" / "main").write_text("0" * 40)
    return repo / "snapshots" / ("0" * 40)


def test_a_local_folder_gives_the_model_that_was_saved_there(folder):
    model, _ = load_model(str(folder))
    expected = byte_model().state_dict()
    assert model.state_dict().keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_a_model_is_loaded_in_evaluation_mode(folder):
    assert not load_model(str(folder))[0].training


def test_the_tokenizer_comes_from_the_same_folder(folder):
    _, tokenizer = load_model(str(folder))
    assert tokenizer.decode(tokenizer("naïve text")["input_ids"]) == "naïve text"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU keeps the stored type")
def test_a_half_precision_model_becomes_float32_on_the_cpu(tmp_path):
    model_folder(tmp_path)
    byte_model().bfloat16().save_pretrained(tmp_path)
    assert load_model(str(tmp_path))[0].dtype == torch.float32


def test_the_number_type_can_be_chosen(folder):
    assert load_model(str(folder), device="cpu", dtype="bfloat16")[0].dtype == torch.bfloat16


def test_a_sharded_model_loads(tmp_path):
    model_folder(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    byte_model().save_pretrained(tmp_path, max_shard_size="200KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    model, _ = load_model(str(tmp_path))
    assert torch.equal(model.lm_head.weight, byte_model().lm_head.weight)


def test_code_in_the_models_folder_is_not_run(folder):
    (folder / "modeling_x.py").write_text("raise SystemExit('this code was run')")
    config = AutoConfig.from_pretrained(folder)
    config.auto_map = {"AutoModelForCausalLM": "modeling_x.X", "AutoConfig": "modeling_x.C"}
    config.save_pretrained(folder)
    assert type(load_model(str(folder))[0]).__name__ == "LlamaForCausalLM"


@pytest.mark.parametrize("device", ["quantum", "", "cpu:x", "meta"])
def test_an_unknown_device_is_refused(folder, device):
    with pytest.raises(InputError, match=r"device .*try auto"):
        load_model(str(folder), device=device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(folder):
    with pytest.raises(InputError, match="not usable here"):
        load_model(str(folder), device="cuda:9")


@pytest.mark.parametrize("dtype", ["int3", "", "float"])
def test_an_unknown_number_type_is_refused(folder, dtype):
    with pytest.raises(InputError, match="there are auto, float32"):
        load_model(str(folder), dtype=dtype)


def test_an_unknown_hub_id_is_one_sentence_that_names_it():
    with pytest.raises(InputError, match=UNKNOWN) as raised:
        load_model(UNKNOWN)
    assert "\n" not in str(raised.value)


def test_without_the_hub_the_sentence_says_why(hub_cache):
    with pytest.raises(InputError, match=r"offline mode is set.*'demo'"):
        load_model(UNKNOWN)


def test_a_downloaded_model_is_loaded_without_the_hub(hub_cache):
    model_folder(_downloaded(hub_cache, UNKNOWN))
    model, _ = load_model(UNKNOWN)
    assert torch.equal(model.lm_head.weight, byte_model().lm_head.weight)


def test_a_half_downloaded_model_is_not_taken_for_whole(hub_cache):
    (model_folder(_downloaded(hub_cache, UNKNOWN)) / "model.safetensors").unlink()
    with pytest.raises(InputError, match="could not be had from the hub"):
        load_model(UNKNOWN)


@pytest.mark.parametrize("name", ["a b", "owner/é", "-x", "\0"])
def test_what_cannot_be_a_hub_id_is_refused(name):
    with pytest.raises(InputError, match="neither a folder that exists nor a hub model id"):
        load_model(name)


def test_the_demo_model_is_llama_shaped(demo):
    model, _ = demo
    shape = Adapter(model).shape
    assert model.config.model_type == "llama"
    assert shape.blocks == (BlockShape(heads=9, kv_heads=3, channels=1536),) * 30
    assert (shape.hidden, shape.head_dim) == (576, 64)


def test_the_demo_model_can_read_and_write(demo):
    model, tokenizer = demo
    ids = tokenizer("The capital of France is", return_tensors="pt")["input_ids"]
    assert tokenizer.decode(model(ids).logits[0, -1].argmax()).strip() == "Paris"


def test_the_demo_model_is_converted_once(session_cache, demo, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("it was converted again")

    monkeypatch.setattr("bipcore.models.loading.GgufConfig", fail)
    assert find_model("demo").folder.is_relative_to(session_cache)


@pytest.mark.skipif("==" not in demo_identity(), reason="the demo model comes from the hub")
def test_the_demo_model_without_its_package_comes_from_the_hub(hub_cache, monkeypatch):
    monkeypatch.setattr("bipcore.models.identity.DEMO_PACKAGE", "no-such-package-4f1d")
    with pytest.raises(InputError, match="HuggingFaceTB/SmolLM2-135M-Instruct"):
        load_model("demo")


@pytest.mark.parametrize(
    ("name", "hidden", "blocks", "positions"),
    [
        ("huggyllama/llama-7b", 4096, 32, 2048),
        ("huggyllama/llama-13b", 5120, 40, 2048),
        ("lmsys/vicuna-7b-v1.5", 4096, 32, 4096),
    ],
)
def test_bundled_configurations_need_no_network(hub_cache, name, hidden, blocks, positions):
    shape = Adapter(empty_model(load_config(name))).shape
    assert (shape.hidden, len(shape.blocks)) == (hidden, blocks)
    assert shape.max_positions == positions


def test_the_configuration_of_a_folder_needs_no_weights(folder):
    (folder / "model.safetensors").unlink()
    assert load_config(str(folder)).hidden_size == 64


def test_the_configuration_of_an_unknown_hub_id_is_one_sentence():
    with pytest.raises(InputError, match=UNKNOWN) as raised:
        load_config(UNKNOWN)
    assert "\n" not in str(raised.value)


def test_an_empty_model_has_sizes_and_no_weights(folder):
    model = empty_model(load_config(str(folder)))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert Adapter(model).shape == Adapter(byte_model()).shape


def test_a_folder_may_be_given_with_a_tilde(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    shutil.copytree(folder, folder.parent / "copy")
    assert find_model("~/copy").folder == folder.parent / "copy"
