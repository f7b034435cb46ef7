"""What an export says for readers older than transformers 5, beside what those of now read."""

import json

import pytest
import torch
import transformers as tf
from torch import nn

from bipcore.export.export import load_pruned, save_pruned
from bipcore.export.older_readers import readers_of, with_older_fields
from bipcore.models.loading import load_model
from bipcore.pruning.slicing import apply_plan
from tests.helpers.folders import edit_json, model_folder, text_tokenizer
from tests.helpers.pruning import assert_same_outputs, plan_for
from tests.helpers.ropes import ROPES, export_all, model_with_rope, plans_for
from tests.helpers.tiny import CONFIGS, random_model, tiny_model
from tests.helpers.tiny import one_thread as one_thread


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with an export of each tier and kind of rotary embedding."""
    root = tmp_path_factory.mktemp("exported")
    for name in ROPES:
        export_all(model_with_rope(name), root / name)
    return root


def _config(root, name: str, tier: int) -> dict:
    return json.loads((root / f"{name}.{tier}" / "config.json").read_text())


@pytest.mark.parametrize("tier", [1, 2])
@pytest.mark.parametrize("name", ROPES)
def test_the_configuration_says_what_it_says_in_the_older_words_too(root, name, tier):
    config = _config(root, name, tier)
    rope = config.get("rope_parameters") or {}
    local = rope.get("sliding_attention")
    rope = rope.get("full_attention", rope)
    assert config["torch_dtype"] == config["dtype"] == "float32"
    assert config["head_dim"] == model_with_rope(name).config.to_dict().get("head_dim", 8)
    assert config["tie_word_embeddings"] in (True, False)
    assert config.get("rope_theta") == rope.get("rope_theta")
    assert config.get("partial_rotary_factor") == rope.get("partial_rotary_factor")
    assert config.get("rope_local_base_freq") == (local and local["rope_theta"])
    scaling = config.get("rope_scaling")
    assert (scaling is None) == (rope.get("rope_type", "default") == "default")
    if scaling:
        assert scaling["type"] == rope["rope_type"]
        assert all(rope[key] == value for key, value in scaling.items() if key in rope)


@pytest.mark.parametrize("name", ["llama3", "yarn", "linear", "dynamic", "longrope"])
def test_a_scaled_embedding_is_named_as_all_readers_look_for_it(root, name):
    scaling = _config(root, name, 1)["rope_scaling"]
    assert scaling["rope_type"] == scaling["type"] == name


def test_phi3_gets_the_three_fields_that_its_older_class_insists_on(root):
    config = _config(root, "phi3-longrope", 1)
    assert {*config["rope_scaling"]} == {"type", "short_factor", "long_factor"}
    assert config["original_max_position_embeddings"] == 8


def test_gpt_neox_gets_the_names_that_its_older_class_has(root):
    config = _config(root, "neox-partial", 2)
    assert (config["rotary_emb_base"], config["rotary_pct"]) == (500.0, 0.5)


@pytest.mark.parametrize("tier", [1, 2])
@pytest.mark.parametrize("name", ROPES)
def test_bipcore_reads_the_same_model_with_the_older_words(root, name, tier):
    model = model_with_rope(name)
    expected = apply_plan(model, plans_for(model)[tier])
    assert_same_outputs(load_pruned(root / f"{name}.{tier}", device="cpu")[0], expected)


def _separate() -> nn.Module:
    """A tiny model whose configuration says that it has no head of its own, and which has one."""
    model = random_model(type(CONFIGS["llama"]())(**CONFIGS["llama"]().to_dict()))
    model.config.tie_word_embeddings = True
    return model


@pytest.mark.parametrize("tier", [1, 2])
def test_a_head_of_its_own_is_exported_as_one_whatever_the_checkpoint_says(tmp_path, tier):
    model = _separate()
    pruned = export_all(model, tmp_path / "out")[tier]
    assert _config(tmp_path, "out", tier)["tie_word_embeddings"] is False
    again, _ = load_pruned(tmp_path / f"out.{tier}", device="cpu")
    assert_same_outputs(again, pruned)
    assert not torch.equal(again.lm_head.weight, again.model.embed_tokens.weight)
    assert model.config.tie_word_embeddings
    assert pruned.config.tie_word_embeddings


def test_a_head_of_its_own_stays_one_in_a_mistral(tmp_path):
    plan = plan_for("llama", 0.25)
    model = apply_plan(_separate(), plan)
    done = save_pruned(model, text_tokenizer(), tmp_path / "out", plan=plan)
    assert done.model_class == "MistralForCausalLM"
    assert_same_outputs(load_pruned(tmp_path / "out", device="cpu")[0], model)


def test_a_tied_head_is_said_to_be_tied(tmp_path):
    export_all(tiny_model("qwen3"), tmp_path / "out")
    for tier in (1, 2):
        assert _config(tmp_path, "out", tier)["tie_word_embeddings"] is True


def test_a_fast_tokenizer_goes_by_a_name_that_older_readers_know_and_by_no_option_of_ours(tmp_path):
    text_tokenizer().save_pretrained(tmp_path / "own")
    options = {"local_files_only": True, "trust_remote_code": False}
    tokenizer = tf.AutoTokenizer.from_pretrained(tmp_path / "own", **options)
    tokenizer.add_special_tokens({"extra_special_tokens": ["<more>"]})
    plan = plans_for(tiny_model("llama"))[1]
    save_pruned(apply_plan(tiny_model("llama"), plan), tokenizer, tmp_path / "out", plan=plan)
    said = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert said["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert said["additional_special_tokens"] == ["<more>"]
    unwanted = {"local_files_only", "trust_remote_code", "config", "is_local", "name_or_path"}
    assert not unwanted & said.keys()
    again = load_pruned(tmp_path / "out")[1]
    for text in ("naïve <more> text", ""):
        assert again(text).data == tokenizer(text).data
    assert again.extra_special_tokens == ["<more>"]


@pytest.mark.parametrize("tier", [1, 2])
def test_code_that_a_checkpoint_brought_is_not_asked_for(tmp_path, tier):
    model_folder(tmp_path / "own", "phi3")
    code = {"AutoConfig": "configuration_phi3.Phi3Config", "AutoModel": "owner/phi3--model.Phi3"}
    edit_json(tmp_path / "own" / "config.json", auto_map=code)
    secret = {
        "token": "hf_secret",
        "revision": "main",
        "auto_map": {"AutoTokenizer": ["t.T", None]},
    }
    edit_json(tmp_path / "own" / "tokenizer_config.json", **secret)
    model, tokenizer = load_model(str(tmp_path / "own"), device="cpu")
    plan = plans_for(model)[tier]
    save_pruned(apply_plan(model, plan), tokenizer, tmp_path / f"out.{tier}", plan=plan)
    named = _config(tmp_path, "out", tier).get("auto_map", {})
    modules = {place.split(".")[0] for place in named.values()}
    assert modules == (set() if tier == 1 else {"modeling_pruned"})
    said = json.loads((tmp_path / f"out.{tier}" / "tokenizer_config.json").read_text())
    assert not said.keys() & secret.keys()


def _readers(folder, **fields) -> str:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(with_older_fields(fields)))
    return readers_of(folder)


def test_what_older_readers_cannot_read_is_said_with_the_reason(tmp_path):
    long = {"rope_type": "longrope", "rope_theta": 1.0, "original_max_position_embeddings": 8}
    long |= {"short_factor": [1.0], "long_factor": [2.0], "max_position_embeddings": 32}
    phi3 = {"model_type": "phi3", "max_position_embeddings": 32}
    two = {
        name: {"rope_type": "linear", "rope_theta": 1.0, "factor": 2.0}
        for name in ("full_attention", "sliding_attention")
    }
    kind = {"rope_type": "proportional", "rope_theta": 1.0}
    one_base = {name: {"rope_type": "default", "rope_theta": 1.0} for name in two}
    bases = one_base | {"sliding_attention": {"rope_type": "default", "rope_theta": 2.0}}
    olmo3 = {"model_type": "olmo3", "rope_parameters": one_base}
    assert _readers(tmp_path / "o", **olmo3) == "transformers 4.57 or later."
    assert _readers(tmp_path / "a", **phi3, rope_parameters=long) == "transformers 4.57 or later."
    newer = {
        "b": phi3 | {"rope_parameters": long | {"factor": 4.0}},
        "c": {"model_type": "gemma3_text", "rope_parameters": two},
        "d": {"model_type": "llama", "rope_parameters": kind},
        "e": {"model_type": "ministral3"},
        "f": {"model_type": "olmo3", "rope_parameters": bases},
    }
    for name, fields in newer.items():
        assert _readers(tmp_path / name, **fields).startswith(
            "transformers 5 or later: earlier ones"
        )


def test_an_export_without_a_configuration_names_no_reader(tmp_path):
    assert readers_of(tmp_path) == ""


def test_the_card_says_which_readers_there_are(root):
    for tier in (1, 2):
        card = (root / f"yarn.{tier}" / "README.md").read_text()
        assert "Read by transformers 4.57 or later." in card
