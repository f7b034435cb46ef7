"""The type that weights are written in, and what is said of it."""

import json

import pytest
import torch
from safetensors import safe_open
from torch import nn

from bipcore.errors import InputError
from bipcore.export.export import load_pruned, read_export, save_pruned
from bipcore.export.number_types import Checkpoint, in_type, read_checkpoint, type_to_write
from bipcore.pruning.slicing import apply_plan
from tests.helpers.folders import byte_model, model_folder, text_tokenizer, tree
from tests.helpers.pruning import logits_of, mixed_plan, plan_for
from tests.helpers.tiny import one_thread as one_thread
from tests.helpers.tiny import tiny_model

PLANS = {1: plan_for("llama"), 2: mixed_plan("llama")}
HALF = Checkpoint("bfloat16", 1000, 1200)


def _save(folder, tier: int = 1, model: nn.Module | None = None, **options):
    model = model or apply_plan(tiny_model("llama"), PLANS[tier])
    return save_pruned(model, text_tokenizer(), folder, plan=PLANS[tier], **options)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def _types_in(folder) -> set[str]:
    types = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            types |= {tensors.get_slice(n).get_dtype() for n in tensors.keys()}  # noqa: SIM118
    return types


@pytest.mark.parametrize("tier", PLANS)
def test_a_model_loaded_in_a_wider_type_is_written_in_its_own(out, tier):
    done = _save(out, tier, checkpoint=HALF)
    assert _types_in(out) == {"BF16"}
    assert (done.dtype, done.dtype_before, done.bytes_before) == ("bfloat16", "bfloat16", 1200)
    config = json.loads((out / "config.json").read_text())
    assert config["dtype"] == config["torch_dtype"] == "bfloat16"
    assert read_export(out) == done
    model, _ = load_pruned(out, dtype="auto", device="cpu")
    for name, value in apply_plan(tiny_model("llama"), PLANS[tier]).state_dict().items():
        assert torch.equal(model.state_dict()[name], value.bfloat16().float())


@pytest.mark.parametrize("tier", PLANS)
def test_the_difference_that_is_said_is_what_rounding_the_weights_does(out, tier):
    pruned = apply_plan(tiny_model("llama"), PLANS[tier])
    assert _save(out, tier, pruned).max_logit_difference == 0.0
    said = _save(out, tier, pruned, checkpoint=HALF).max_logit_difference
    rounded, _ = load_pruned(out, dtype="float32", device="cpu")
    difference = float((logits_of(rounded) - logits_of(pruned)).abs().max())
    assert 0 < said < 10 * difference
    assert difference < 10 * said


@pytest.mark.parametrize(("wanted", "stored"), [("bfloat16", "BF16"), ("float16", "F16")])
def test_another_type_can_be_asked_for(out, wanted, stored):
    done = _save(out, save_dtype=wanted)
    assert (done.dtype, _types_in(out)) == (wanted, {stored})
    assert (done.dtype_before, done.bytes_before) == (None, None)


def test_a_wider_type_can_be_asked_for(out):
    pruned = apply_plan(in_type(tiny_model("llama"), torch.bfloat16), PLANS[1])
    done = _save(out, model=pruned, save_dtype="float32")
    assert (done.dtype, done.max_logit_difference, _types_in(out)) == ("float32", 0.0, {"F32"})


def test_the_model_in_memory_keeps_its_type(out):
    pruned = apply_plan(tiny_model("llama"), PLANS[1])
    before = {name: value.clone() for name, value in pruned.state_dict().items()}
    config = pruned.config.to_dict()
    _save(out, model=pruned, save_dtype="bfloat16")
    assert pruned.config.to_dict() == config
    assert all(torch.equal(value, before[name]) for name, value in pruned.state_dict().items())


def test_a_tied_head_stays_tied_in_another_type(out):
    plan = plan_for("qwen3")
    model = apply_plan(tiny_model("qwen3"), plan)
    save_pruned(model, text_tokenizer(), out, plan=plan, save_dtype="bfloat16")
    again, _ = load_pruned(out, device="cpu")
    assert again.lm_head.weight is again.model.embed_tokens.weight


@pytest.mark.parametrize("wanted", ["int8", "", "half", "BFLOAT16"])
def test_an_unknown_type_is_refused_with_the_known_ones(tmp_path, out, wanted):
    with pytest.raises(InputError, match="there are auto, float32, bfloat16, float16"):
        _save(out, save_dtype=wanted)
    assert tree(tmp_path) == []


def test_weights_that_do_not_fit_into_a_type_are_refused(tmp_path, out):
    pruned = apply_plan(tiny_model("llama"), PLANS[1])
    with torch.no_grad():
        pruned.lm_head.weight[0, 0] = 1e6
    with pytest.raises(InputError, match=r"lm_head.weight have numbers too large for float16"):
        _save(out, model=pruned, save_dtype="float16")
    assert tree(tmp_path) == []


@pytest.mark.parametrize(
    ("stored", "held", "written"),
    [
        ("bfloat16", "float32", "bfloat16"),
        ("float16", "float32", "float16"),
        ("float32", "float32", "float32"),
        ("float64", "float32", "float32"),
        ("float32", "bfloat16", "bfloat16"),
        ("float16", "bfloat16", "bfloat16"),
        ("F8_E4M3", "bfloat16", "bfloat16"),
    ],
)
def test_what_was_rounded_on_loading_is_not_written_wider_again(stored, held, written):
    model = tiny_model("llama").to(getattr(torch, held))
    stored = Checkpoint(stored, 1, 1)
    assert type_to_write("auto", model, stored) == getattr(torch, written)


def test_the_card_says_both_types_and_sizes(out):
    done = _save(out, checkpoint=Checkpoint("bfloat16", 5 * 2**20, 6 * 2**20))
    card = (out / "README.md").read_text()
    assert "| Number type | bfloat16 | bfloat16, rounded after it was measured |" in card
    size = 2 * done.parameters / 2**20
    assert f"| Weights on the disk | 5.0 MiB | {size:,.1f} MiB |" in card


def test_weights_that_are_only_cut_are_not_rounded(out):
    dense = in_type(in_type(tiny_model("llama"), torch.bfloat16), torch.float32)
    done = _save(out, model=apply_plan(dense, PLANS[1]), checkpoint=HALF)
    assert (done.dtype, done.max_logit_difference) == ("bfloat16", 0.0)
    assert "| Number type | bfloat16 | bfloat16 |" in (out / "README.md").read_text()


def test_a_checkpoint_is_told_from_its_headers(tmp_path):
    folder = model_folder(tmp_path / "model", "opt")
    model = byte_model("opt")
    for block in model.model.decoder.layers:
        block.bfloat16()
    model.save_pretrained(folder)
    files = [file for file in folder.iterdir() if file.is_file()]
    found = read_checkpoint("m", folder, "model.decoder.layers")
    assert found.dtype == "bfloat16"
    assert found.weights == (folder / "model.safetensors").stat().st_size
    assert found.bytes == sum(file.stat().st_size for file in files)


def test_shards_count_and_what_is_no_part_of_the_model_does_not(tmp_path):
    byte_model().save_pretrained(tmp_path, max_shard_size="100KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 1
    (tmp_path / "consolidated.safetensors").write_bytes(shards[0].read_bytes())
    found = read_checkpoint("m", tmp_path, "model.layers")
    assert found.weights == sum(file.stat().st_size for file in shards)
    assert found.dtype == "float32"
