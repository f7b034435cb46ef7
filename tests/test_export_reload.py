"""Exports of every family, loaded by stock transformers in a process that has no bipcore."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from bipcore.export import save_pruned
from bipcore.slicing import apply_plan
from tests.pruning import generated_by, logits_of, plan_for
from tests.tiny import FAMILIES, padded_batch, tiny_model, word_tokenizer

CHANNELS_ONLY = ("opt", "neox", "neox-sequential")
CASES = {name: (name, 0.3 if name in CHANNELS_ONLY else 0.5) for name in FAMILIES} | {
    "llama-as-mistral": ("llama", 0.25),
    "nothing": ("llama", 0.0),
}
"""A family and a sparsity that its stock class can hold; at 0.25 LLaMA keeps 6 of 8 heads, which
do not divide its 64 hidden units."""

_READER = """
import importlib.util, json, sys
from pathlib import Path
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

assert importlib.util.find_spec("bipcore") is None
torch.set_num_threads(1)
root = Path(sys.argv[1])
given = load_file(root / "batch.safetensors")
tokens, mask = given["tokens"], given["mask"]
outputs, facts = {}, {}
for folder in sorted(path for path in root.iterdir() if path.is_dir()):
    model, report = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    with torch.no_grad():
        logits = model(tokens, attention_mask=mask).logits[mask.bool()]
        options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
        new = model.generate(tokens, attention_mask=mask, **options)
    outputs |= {f"{folder.name}.logits": logits, f"{folder.name}.generated": new}
    facts[folder.name] = {
        "class": type(model).__name__,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "unmatched": sorted(map(str, [*report["missing_keys"], *report["unexpected_keys"]])),
        "tokens": AutoTokenizer.from_pretrained(folder)("w4 w2")["input_ids"],
    }
save_file(outputs, root / "outputs.safetensors")
print(json.dumps(facts))
"""


def _plan(case: str):
    name, sparsity = CASES[case]
    return plan_for(name, sparsity, unit="none" if name in CHANNELS_ONLY else "auto")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Every case exported; what a fresh process loaded, and what it says of it."""
    root = tmp_path_factory.mktemp("exported")
    tokens, mask = padded_batch()
    save_file({"tokens": tokens, "mask": mask}, root / "batch.safetensors")
    for case, (name, _) in CASES.items():
        pruned = apply_plan(tiny_model(name), _plan(case))
        save_pruned(pruned, word_tokenizer(94), root / case, plan=_plan(case))
    command = [sys.executable, "-I", "-c", _READER, str(root)]
    done = subprocess.run(
        command, cwd=root, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    return root, load_file(root / "outputs.safetensors"), json.loads(done.stdout)


def _pruned(case: str):
    return apply_plan(tiny_model(CASES[case][0]), _plan(case))


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_gives_the_same_logits(exported, case):
    _, outputs, _ = exported
    expected = logits_of(_pruned(case))
    torch.testing.assert_close(outputs[f"{case}.logits"], expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_generates_the_same_tokens(exported, case):
    _, outputs, _ = exported
    assert torch.equal(outputs[f"{case}.generated"], generated_by(_pruned(case)))


@pytest.mark.parametrize("case", CASES)
def test_a_fresh_process_loads_every_weight_and_no_other(exported, case):
    _, _, facts = exported
    assert facts[case]["unmatched"] == []
    assert facts[case]["parameters"] == _plan(case).pruned_shape.parameters


@pytest.mark.parametrize("case", ["llama", "llama-as-mistral"])
def test_a_fresh_process_loads_the_tokenizer(exported, case):
    _, _, facts = exported
    assert facts[case]["tokens"] == [7, 5]


@pytest.mark.parametrize("case", CASES)
def test_the_weights_on_disk_are_as_large_as_the_plan_says(exported, case):
    root, _, _ = exported
    sizes = []
    for file in (root / case).glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            sizes += [tensors.get_tensor(name).nbytes for name in tensors.keys()]  # noqa: SIM118
    assert sum(sizes) == 4 * _plan(case).pruned_shape.parameters


@pytest.mark.parametrize("case", CASES)
def test_the_export_keeps_the_class_where_it_can(exported, case):
    _, _, facts = exported
    stock = type(tiny_model(CASES[case][0])).__name__
    as_mistral = case == "llama-as-mistral"
    assert facts[case]["class"] == ("MistralForCausalLM" if as_mistral else stock)


@pytest.mark.parametrize("case", CASES)
def test_the_configuration_says_the_widths_and_the_head_width(exported, case):
    root, _, _ = exported
    config = json.loads((root / case / "config.json").read_text())
    shape, block = _plan(case).shape, _plan(case).pruned_shape.blocks[0]
    assert config["ffn_dim" if case == "opt" else "intermediate_size"] == block.channels
    assert config["num_attention_heads"] == block.heads
    if case not in CHANNELS_ONLY:
        assert config["num_key_value_heads"] == block.kv_heads
        assert config["head_dim"] == shape.head_dim


@pytest.mark.parametrize("case", [case for case in CASES if case != "nothing"])
def test_every_case_cuts_what_it_is_here_for(case):
    before, after = _plan(case).shape.blocks[0], _plan(case).pruned_shape.blocks[0]
    assert after.channels < before.channels
    assert after.heads == (8 if case in CHANNELS_ONLY else 6 if "mistral" in case[5:] else 4)
