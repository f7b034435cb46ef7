"""Exports that no stock class can hold, loaded by their own file where there is no bipcore."""

import json
from functools import cache

import pytest
import torch
from torch import nn

from bipcore.export.export import Export, load_pruned, save_pruned
from bipcore.models.adapters import Adapter
from bipcore.models.loading import load_model
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.fresh import Read, read_exports, run_fresh
from tests.helpers.pruning import generated_by, logits_of, mixed_plan, plan_for, scores_of
from tests.helpers.tiny import FAMILIES, MORE_FAMILIES, tiny_model, word_tokenizer
from tests.helpers.tiny import one_thread as one_thread

WHOLE = BlockPlan(tuple(range(8)), tuple(range(96)))
NO_ATTENTION = BlockPlan((), WHOLE.channels)
NO_FFN = BlockPlan(WHOLE.heads, ())
GONE = {
    "no-ffn": (WHOLE, NO_FFN, WHOLE),
    "no-attention": (WHOLE, NO_ATTENTION, WHOLE),
    "no-first-attention": (NO_ATTENTION, WHOLE, NO_FFN),
}
OTHERS = ("qwen2", "gemma2", "gemma3", "phi3", "neox")
"""Families that differ in attention from the two that lose every kind of sublayer."""


def _gone(name: str, case: str) -> PruningPlan:
    return PruningPlan(scores_of(name).shape, GONE[case])


PLANS = (
    {f"{name}.mixed": mixed_plan(name) for name in FAMILIES + MORE_FAMILIES}
    | {f"{n}.no-first-attention": _gone(n, "no-first-attention") for n in OTHERS}
    | {f"{n}.{c}": _gone(n, c) for n in ("llama", "opt") for c in GONE}
    | {f"{name}.fewer-heads": plan_for(name) for name in ("opt", "neox")}
    | {f"{name}.6-heads": plan_for(name, 0.25) for name in ("gemma2", "gemma3", "llama-gqa")}
    | {f"{name}.biased": plan_for(name) for name in ("llama", "qwen2", "phi3", "gemma3")}
    | {"llama.biased-6-heads": plan_for("llama", 0.25)}
    | {"mistral.biased-mixed": mixed_plan("mistral"), "llama.biased-gone": _gone("llama", "no-ffn")}
)
"""Plans that need the file. The name before the dot is that of the tiny model; "biased" stands for
what the compensation of that name does to output projections."""


@cache
def _pruned(case: str) -> nn.Module:
    name, _, kind = case.partition(".")
    model = apply_plan(tiny_model(name), PLANS[case])
    if kind.startswith("biased"):
        blocks = Adapter(model).blocks
        for linear in (blocks[0].o, blocks[0].down, blocks[1].down, blocks[2].o):
            linear.bias = nn.Parameter(torch.linspace(-1, 1, 64))
    return model


@cache
def _save(root, case: str) -> Export:
    return save_pruned(_pruned(case), word_tokenizer(94), root / case, plan=PLANS[case])


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A folder with every case exported."""
    root = tmp_path_factory.mktemp("exported")
    for case in PLANS:
        _save(root, case)
    return root


@pytest.fixture(scope="module")
def read(root) -> Read:
    """What a fresh process says of them."""
    return read_exports(root, trust_remote_code=True)


@pytest.mark.parametrize("case", PLANS)
def test_the_export_says_that_it_is_of_tier_2(root, case):
    assert _save(root, case).tier == 2
    assert _save(root, case).model_class.startswith("Pruned")
    assert _save(root, case).max_logit_difference < 1e-4


@pytest.mark.parametrize("case", PLANS)
def test_a_fresh_process_gives_the_same_logits(read, case):
    expected = logits_of(_pruned(case))
    torch.testing.assert_close(read.outputs[f"{case}.logits"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", PLANS)
def test_a_fresh_process_generates_the_same_tokens_with_and_without_a_cache(read, case):
    assert torch.equal(read.outputs[f"{case}.generated"], generated_by(_pruned(case)))
    assert read.facts[case]["cache"]


@pytest.mark.parametrize("case", PLANS)
def test_a_fresh_process_runs_the_file_of_the_folder(read, case):
    fact = read.facts[case]
    assert (
        fact["class"] == json.loads((read.root / case / "bipcore.json").read_text())["model_class"]
    )
    assert fact["module"].startswith("transformers_modules.")
    assert fact["tokens"] == [7, 5]


@pytest.mark.parametrize("case", PLANS)
def test_a_fresh_process_loads_every_weight_and_no_other(read, case):
    counted = sum(parameter.numel() for parameter in _pruned(case).parameters())
    assert read.facts[case]["unmatched"] == []
    assert read.facts[case]["parameters"] == counted == _save(read.root, case).parameters
    if "biased" not in case:
        assert counted == PLANS[case].pruned_shape.parameters


def test_a_fresh_process_is_not_warned(read):
    warned = [line for line in read.err.splitlines() if "arn" in line or "not used" in line]
    assert warned == []


@pytest.mark.parametrize("case", PLANS)
def test_bipcore_loads_the_same_without_the_file(root, case):
    kept = next((root / case).glob("modeling_*.py"))
    text = kept.read_text()
    kept.write_text("raise SystemExit('this code was run')")
    try:
        model, tokenizer = load_model(str(root / case), device="cpu")
    finally:
        kept.write_text(text)
    torch.testing.assert_close(logits_of(model), logits_of(_pruned(case)), rtol=0, atol=1e-4)
    assert torch.equal(generated_by(model), generated_by(_pruned(case)))
    assert Adapter(model).shape.blocks == PLANS[case].pruned_shape.blocks
    assert tokenizer("w4 w2")["input_ids"] == [7, 5]


@pytest.mark.parametrize("case", ["llama.mixed", "phi3.mixed", "opt.no-first-attention"])
def test_the_attention_of_a_loaded_model_can_be_chosen(root, case):
    model, _ = load_pruned(root / case, device="cpu")
    model.set_attn_implementation("eager")
    assert {block.attention.config._attn_implementation for block in Adapter(model).blocks} == {
        "eager"
    }
    torch.testing.assert_close(logits_of(model), logits_of(_pruned(case)), rtol=0, atol=1e-4)


def test_without_trust_transformers_says_that_the_folder_has_code(root):
    script = (
        "import sys; from transformers import AutoModelForCausalLM\n"
        "AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=False)"
    )
    done = run_fresh(root, script, str(root / "llama.mixed"))
    assert done.status == 1
    last = done.err.strip().splitlines()
    assert any("contains custom code which must be executed" in line for line in last)
    assert "pass the argument `trust_remote_code=True`" in last[-1]


_SAVE_AGAIN = """
import sys, torch
from transformers import AutoModelForCausalLM
one = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
one.save_pretrained(sys.argv[2])
two = AutoModelForCausalLM.from_pretrained(sys.argv[2], trust_remote_code=True)
tokens = torch.arange(3, 20)[None]
assert torch.equal(one(tokens).logits, two(tokens).logits)
one.train()
one(tokens, labels=tokens).loss.backward()
"""


@pytest.mark.parametrize("case", ["llama.biased-gone", "gemma2.6-heads"])
def test_a_user_can_save_it_again_and_train_it(root, tmp_path, case):
    done = run_fresh(root, _SAVE_AGAIN, str(root / case), str(tmp_path / "my model v1.5"))
    assert done.status == 0, done.err
    assert [file.name for file in (tmp_path / "my model v1.5").glob("*.py")] == [
        next((root / case).glob("*.py")).name
    ]
