"""Exports of every family, loaded by stock transformers in a process that has no bipcore."""

import json

import pytest
import torch
from safetensors import safe_open

from bipcore.export.export import save_pruned
from bipcore.pruning.slicing import apply_plan
from tests.helpers.fresh import Read, read_exports
from tests.helpers.pruning import generated_by, logits_of, plan_for
from tests.helpers.tiny import FAMILIES, HEADS_STAY, MORE_FAMILIES, tiny_model, word_tokenizer

CHANNELS_ONLY = ("opt", "neox", "neox-sequential", "stablelm", "stablelm-parallel", *HEADS_STAY)
CASES = {
    name: (name, 0.3 if name in CHANNELS_ONLY else 0.5) for name in FAMILIES + MORE_FAMILIES
} | {"llama-as-mistral": ("llama", 0.25)}
"""A family and a sparsity that its stock class can hold; at 0.25 LLaMA keeps 6 of 8 heads, which
do not divide its 64 hidden units."""


def _plan(case: str):
    name, sparsity = CASES[case]
    return plan_for(name, sparsity, unit="none" if name in CHANNELS_ONLY else "auto")


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> Read:
    """Every case exported, and what a fresh process says of it."""
    root = tmp_path_factory.mktemp("exported")
    for case, (name, _) in CASES.items():
        pruned = apply_plan(tiny_model(name), _plan(case))
        done = save_pruned(pruned, word_tokenizer(94), root / case, plan=_plan(case))
        assert done.tier == 1
    return read_exports(root)


def _pruned(case: str):
    return apply_plan(tiny_model(CASES[case][0]), _plan(case))


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_gives_the_same_logits(exported, case):
    expected = logits_of(_pruned(case))
    torch.testing.assert_close(exported.outputs[f"{case}.logits"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_generates_the_same_tokens(exported, case):
    assert torch.equal(exported.outputs[f"{case}.generated"], generated_by(_pruned(case)))


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_loads_every_weight_and_no_other(exported, case):
    assert exported.facts[case]["unmatched"] == []
    assert exported.facts[case]["parameters"] == _plan(case).pruned_shape.parameters


@pytest.mark.parametrize("case", ["llama", "llama-as-mistral"])
def test_a_fresh_process_loads_the_tokenizer(exported, case):
    assert exported.facts[case]["tokens"] == [7, 5]


@pytest.mark.parametrize("case", CASES)
def test_the_weights_on_disk_are_as_large_as_the_plan_says(exported, case):
    sizes = []
    for file in (exported.root / case).glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            sizes += [tensors.get_tensor(name).nbytes for name in tensors.keys()]  # noqa: SIM118
    assert sum(sizes) == 4 * _plan(case).pruned_shape.parameters


@pytest.mark.parametrize("case", CASES)
def test_the_export_keeps_the_class_where_it_can(exported, case):
    stock = type(tiny_model(CASES[case][0])).__name__
    as_mistral = case == "llama-as-mistral"
    assert exported.facts[case]["class"] == ("MistralForCausalLM" if as_mistral else stock)


@pytest.mark.parametrize("case", CASES)
def test_the_configuration_says_the_widths_and_the_head_width(exported, case):
    config = json.loads((exported.root / case / "config.json").read_text())
    shape, block = _plan(case).shape, _plan(case).pruned_shape.blocks[0]
    assert config["ffn_dim" if case == "opt" else "intermediate_size"] == block.channels
    assert config["num_attention_heads"] == block.heads
    if case not in CHANNELS_ONLY:
        assert config["num_key_value_heads"] == block.kv_heads
        assert config["head_dim"] == shape.head_dim


@pytest.mark.parametrize("case", CASES)
def test_every_case_cuts_what_it_is_here_for(case):
    before, after = _plan(case).shape.blocks[0], _plan(case).pruned_shape.blocks[0]
    assert after.channels < before.channels
    assert after.heads == (8 if case in CHANNELS_ONLY else 6 if "mistral" in case[5:] else 4)
