"""Exports of models that are streamed: the same files' contents, never all of it in memory."""

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM

from bipcore.criteria import score
from bipcore.errors import InputError
from bipcore.export import streamed as writing
from bipcore.export.export import load_pruned, save_pruned
from bipcore.models.loading import load_model
from bipcore.models.streaming import is_streamed
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.tiny import byte_tokenizer, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

TIERS = {1: {"sparsity": 0.4}, 2: {"sparsity": 0.4, "protect_first": 1}}


@pytest.fixture
def pruned(tmp_path, cache):
    """What a plan leaves of a model in memory and of the same one streamed, and the plan."""

    def make(name: str, tier: int):
        whole = tiny_model(name)
        whole.save_pretrained(tmp_path / name)
        byte_tokenizer().save_pretrained(tmp_path / name)
        size = sum(p.numel() * p.element_size() for p in whole.parameters())
        how = {"device": "cpu", "memory": f"{size // 1024}KiB"}
        streamed, tokenizer = load_model(str(tmp_path / name), **how)
        plan = make_plan(score(whole, None, "magnitude"), **TIERS[tier])
        return plan, tokenizer, *(apply_plan(model, plan) for model in (whole, streamed))

    return make


def _tensors(folder) -> dict:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as opened:
            found |= {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    return found


@pytest.mark.parametrize("tier", TIERS)
@pytest.mark.parametrize("name", ["llama", "qwen3", "neox", "phi3"])
@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_the_same_tensors_are_written_in_files_that_transformers_loads(
    pruned, tmp_path, monkeypatch, name, tier, dtype
):
    monkeypatch.setattr(writing, "_SHARD", 100_000)
    plan, tokenizer, *models = pruned(name, tier)
    assert is_streamed(models[1])
    done = [
        save_pruned(model, tokenizer, tmp_path / f"out-{i}", plan=plan, save_dtype=dtype)
        for i, model in enumerate(models)
    ]
    one, other = (_tensors(tmp_path / f"out-{i}") for i in range(2))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)
    assert len(list((tmp_path / "out-1").glob("*.safetensors"))) > 1
    assert done[1].max_logit_difference == pytest.approx(done[0].max_logit_difference, abs=1e-6)
    assert done[0].tier == done[1].tier
    again, _ = load_pruned(tmp_path / "out-1", device="cpu", dtype="float32")
    assert not is_streamed(again)
    tokens = tiny_tokens(1, 8)
    if done[0].tier == 1:
        stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out-1", dtype=torch.float32)
        assert torch.equal(stock(input_ids=tokens).logits, again(input_ids=tokens).logits)
    expected = load_pruned(tmp_path / "out-0", device="cpu", dtype="float32")[0]
    assert torch.equal(again(input_ids=tokens).logits, expected(input_ids=tokens).logits)


def test_a_number_too_large_for_the_type_is_refused_and_nothing_is_kept(pruned, tmp_path):
    plan, tokenizer, _, streamed = pruned("llama", 1)
    place = next(iter(vars(streamed.model.layers[0])["_part"].places.values()))
    with safe_open(place.file, framework="pt") as opened:
        tensors = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
    tensors["model.layers.0.mlp.down_proj.weight"] = (
        tensors["model.layers.0.mlp.down_proj.weight"] * 1e9
    )
    writing.save_file(tensors, place.file, {"format": "pt"})
    with pytest.raises(InputError, match="not finite numbers in float16"):
        save_pruned(streamed, tokenizer, tmp_path / "out", plan=plan, save_dtype="float16")
    assert not (tmp_path / "out").exists()
