"""Gradient checkpointing: the same weights, bit for bit, from less memory."""

from dataclasses import replace

import pytest
import torch
from transformers import LlamaConfig

from bipcore.evaluation.footprint import training_pass
from bipcore.models.adapters import Adapter
from bipcore.models.memory import PeakMemory, settle
from bipcore.recovery import rerunning
from bipcore.recovery.rerunning import blocks_run_again
from bipcore.recovery.training import recover
from bipcore.recovery.weights import trainable
from bipcore.specs import RecoverySpec
from tests.helpers.recoveries import SPEC, TOKENS, pruned
from tests.helpers.tiny import FAMILIES, one_thread, random_model, tiny_model  # noqa: F401

WAYS = {
    "lora with dropout": replace(SPEC, dropout=0.3),
    "blocks, distilled": replace(SPEC, objective="distill", train="blocks", learning_rate=1e-4),
    "blocks' outputs": replace(SPEC, objective="distill", hidden_weight=1.0, epochs=1),
}


def _weights(name: str, spec: RecoverySpec, asked: bool) -> dict:
    dense = tiny_model(name)
    done = recover(pruned(name), TOKENS, spec, dense=dense, gradient_checkpointing=asked)
    return done.tensors | {"history": done.history}


def _same(first: dict, second: dict) -> bool:
    assert first.pop("history") == second.pop("history")
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


@pytest.mark.parametrize("way", WAYS)
def test_the_weights_are_the_same_bit_for_bit(way):
    assert _same(*(_weights("llama", WAYS[way], asked) for asked in (False, True)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_gives_the_same_weights(name):
    spec = replace(SPEC, objective="distill", train="blocks", learning_rate=1e-4, epochs=1)
    assert _same(*(_weights(name, spec, asked) for asked in (False, True)))


@pytest.mark.parametrize("train", ["lora", "blocks"])
def test_all_blocks_are_run_again_where_that_is_asked_for(train):
    model, spec = pruned(), replace(SPEC, train=train)
    tuned, _ = trainable(model, spec, None)
    assert len(blocks_run_again(model, tuned, spec, 64, True)) == len(Adapter(model).blocks)
    assert blocks_run_again(model, tuned, spec, 64, False) == []


def test_blocks_are_run_again_where_memory_would_not_do_without(monkeypatch):
    model = pruned()
    tuned, _ = trainable(model, SPEC, None)
    need = sum(training_pass(Adapter(model).shape, SPEC, 64, checkpointed=False).values())
    for free, again in ((need, 0), (need - 1, len(Adapter(model).blocks))):
        monkeypatch.setattr(rerunning, "free_memory", lambda device, free=free: free)
        assert len(blocks_run_again(model, tuned, SPEC, 64, None)) == again


def test_less_memory_is_held():
    """Of 16 blocks of width 128 on 2,048 tokens the tensors that are there at once are 8 times
    less; of the process's resident memory, to which what malloc keeps belongs, about half."""
    sizes = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 16}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4, "vocab_size": 97}
    model = random_model(LlamaConfig(**sizes, **heads))
    spec = replace(SPEC, samples=4, seq_len=512, epochs=1, validation=0)
    tokens = torch.randint(97, (4, 512), generator=torch.Generator().manual_seed(0))
    grown = {}
    for asked in (True, False):
        settle(model)
        with PeakMemory(torch.device("cpu")) as peak:
            recover(model, tokens, spec, gradient_checkpointing=asked)
        grown[asked] = peak.growth
    print({asked: f"{size / 2**20:.0f} MiB" for asked, size in grown.items()})
    assert grown[True] < 0.75 * grown[False]
