"""GGUF files run by the real llama.cpp: the logits and the greedy tokens of the model in memory."""

import pytest
import torch
from torch import nn

from bipcore.export.export import save_pruned
from bipcore.models.adapters import Adapter
from bipcore.models.tokenizer import PROBES
from bipcore.pruning.editing import drop_attention, drop_ffn
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.gguf import (
    CUTS,
    merging_tokenizer,
    piece_tokenizer,
    plan_of,
    readable_model,
    trained_tokenizer,
)
from tests.helpers.llama_cpp import ask, skip_without
from tests.helpers.tiny import one_thread as one_thread

pytestmark = pytest.mark.llama_cpp

TEXTS = [*PROBES, "HelloWorld's IT'S 12345 /a/b//\n\n  \tx", "ÀÉîõ ÑandÜ 3.14e-5 --\r\n/", ""]
PROMPT, COUNT = [11, 45, 78, 200, 31, 99, 150, 7, 22, 9, 87, 201, 4, 5, 61, 17, 80, 91], 12
UNIFORM, MIXED = {"sparsity": 0.5}, {"sparsity": 0.4, "protect_first": 1}
CHANNELS = {"sparsity": 0.3, "unit": "none"}
CASES = {
    "MHA": ("llama", "llama", UNIFORM),
    "GQA with biases": ("llama", "llama-gqa", UNIFORM),
    "whole groups": ("llama", "mistral", {"sparsity": 0.5, "unit": "kv-group"}),
    "mixed": ("deci", "llama", MIXED),
    "mixed, GQA with biases": ("deci", "llama-gqa", MIXED),
    "qwen2": ("qwen2", "qwen2", CHANNELS),
    "qwen2 with fewer heads": ("llama", "qwen2", UNIFORM),
    "qwen2, mixed": ("deci", "qwen2", MIXED),
    "qwen3": ("qwen3", "qwen3", UNIFORM),
    "gemma2": ("gemma2", "gemma2", UNIFORM),
    "gemma3": ("gemma3", "gemma3", UNIFORM),
    "phi3": ("phi3", "phi3", CHANNELS),
    "phi3 with fewer heads": ("llama", "phi3", UNIFORM),
    "phi3, mixed": ("deci", "phi3", MIXED),
    "llama3": ("llama", "llama3", UNIFORM),
    "yarn": ("llama", "yarn", UNIFORM),
    "yarn, mixed": ("deci", "mistral-yarn", MIXED),
    "qwen2 with yarn": ("qwen2", "qwen2-yarn", CHANNELS),
    "linear": ("llama", "linear", UNIFORM),
    "gemma3, two bases": ("gemma3", "gemma3-two", UNIFORM),
    "gemma3, linear": ("gemma3", "gemma3-linear", UNIFORM),
    "phi3, partly turned": ("phi3", "phi3-partial", CHANNELS),
}
"""For each name the architecture of llama.cpp, the tiny model, and how its plan is made."""

GONE = {
    "an attention gone": [(drop_attention, 1)],
    "the first attention gone": [(drop_attention, 0)],
    "an FFN gone": [(drop_ffn, 1)],
    "the last FFN gone": [(drop_ffn, 2)],
    "one of each gone": [(drop_attention, 0), (drop_ffn, 1)],
    "a whole block gone": [(drop_attention, 1), (drop_ffn, 1)],
}


def _gone(edits) -> PruningPlan:
    plan = plan_of(readable_model("llama"), sparsity=0.3)
    for edit, block in edits:
        plan = edit(plan, block)
    return plan


def _biased(model: nn.Module) -> nn.Module:
    """``model`` with a bias at every output projection, as a compensation adds them."""
    generator = torch.Generator().manual_seed(4)
    for block in Adapter(model).blocks:
        for linear in (block.o, block.down):
            linear.bias = nn.Parameter(torch.randn(linear.out_features, generator=generator) / 3)
    return model


def _models() -> dict[str, tuple[str, nn.Module, PruningPlan]]:
    """For each case the architecture, the pruned model and the plan."""
    found = {}
    for case, (architecture, name, options) in CASES.items():
        model = readable_model(name)
        plan = plan_of(model, **options)
        found[case] = architecture, apply_plan(model, plan), plan
    for case, edits in GONE.items():
        plan = _gone(edits)
        found[case] = "deci", apply_plan(readable_model("llama"), plan), plan
        if case == "a whole block gone":
            found[case] = "llama", *found[case][1:]
        biased = _biased(apply_plan(readable_model("llama"), plan))
        found[f"{case}, with biases"] = "deci", biased, plan
    return found


MADE = [*CASES, *(name + more for name in GONE for more in ("", ", with biases"))]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict:
    """For each case the pruned model, the architecture, and what llama.cpp finds."""
    skip_without()
    root, made = tmp_path_factory.mktemp("gguf"), _models()
    jobs = []
    for number, (_, model, plan) in enumerate(made.values()):
        file = root / f"{number}.gguf"
        save_pruned(model, merging_tokenizer(), file, plan=plan, format="gguf")
        jobs.append({"file": str(file), "prompt": PROMPT, "count": COUNT})
    return dict(zip(made, zip(made.values(), ask(jobs), strict=True), strict=True))


@pytest.mark.parametrize("case", MADE)
def test_llama_cpp_gives_the_logits_and_the_tokens_of_the_model_in_memory(found, case):
    (architecture, model, _), said = found[case]
    assert said["architecture"] == architecture
    with torch.no_grad():
        expected = model(torch.tensor([PROMPT])).logits[0]
        tokens = model.generate(
            torch.tensor([PROMPT]), max_new_tokens=COUNT, do_sample=False, eos_token_id=None
        )
    scale = max(1.0, float(expected.abs().max()))
    share = 1e-3 if "gemma" in architecture else 2e-5  # its GELU is a table of float16 numbers
    close = {"rtol": 0, "atol": share * scale}
    torch.testing.assert_close(torch.tensor(said["logits"]), expected, **close)
    assert said["tokens"] == tokens[0, len(PROMPT) :].tolist()


def test_what_rounding_does_to_weights_is_all_that_differs(tmp_path):
    model = readable_model("llama")
    plan = plan_of(model, sparsity=0.5, round_to=32)
    pruned = apply_plan(model, plan)
    jobs = []
    for kind in ("f16", "bf16", "q8_0"):
        file = tmp_path / f"{kind}.gguf"
        options = {"plan": plan, "format": "gguf", "quantize": kind}
        save_pruned(pruned, merging_tokenizer(), file, **options)
        jobs.append({"file": str(file), "prompt": PROMPT, "count": 1})
    expected = pruned(torch.tensor([PROMPT])).logits[0].detach()
    for job, said in zip(jobs, ask(jobs), strict=True):
        apart = (torch.tensor(said["logits"]) - expected).square().mean().sqrt()
        share = float(apart / expected.square().mean().sqrt())
        assert 0 < share < (0.1 if "q8_0" in job["file"] else 0.02), job


def test_llama_cpp_reads_texts_as_the_tokenizer_does(tmp_path):
    tokenizers = [*map(trained_tokenizer, CUTS), piece_tokenizer(), piece_tokenizer(spaced=False)]
    jobs = []
    for number, tokenizer in enumerate(tokenizers):
        sized = readable_model("llama", vocabulary=len(tokenizer))
        file = tmp_path / f"{number}.gguf"
        plan = plan_of(sized)
        save_pruned(apply_plan(sized, plan), tokenizer, file, plan=plan, format="gguf")
        jobs.append({"file": str(file), "texts": TEXTS})
    for tokenizer, said in zip(tokenizers, ask(jobs), strict=True):
        expected = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in TEXTS]
        assert said["texts"] == expected
