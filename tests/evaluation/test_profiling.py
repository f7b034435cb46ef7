"""What a model costs: counted against a naive count of what runs, and measured."""

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from bipcore.criteria import score
from bipcore.errors import InputError
from bipcore.evaluation.profiling import profile_model, profile_rows, profile_shape
from bipcore.models.adapters import Adapter
from bipcore.models.loading import empty_model, load_config
from bipcore.models.memory import weight_bytes
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.tiny import FAMILIES, LAYERS, tiny_model

LENGTH = 20


@torch.no_grad()
def _naive_macs(model: nn.Module) -> int:
    """Every linear layer that runs over `LENGTH` tokens, and the two products of attention."""
    total = 0

    def count(linear, inputs, output):
        nonlocal total
        total += inputs[0].numel() * linear.out_features

    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    handles = [linear.register_forward_hook(count) for linear in linears]
    model(input_ids=torch.full((1, LENGTH), 5))
    for handle in handles:
        handle.remove()
    widths = [block.o.in_features for block in Adapter(model).blocks]
    return total + sum(2 * LENGTH * LENGTH * width for width in widths)


def _pruned(name: str) -> tuple[nn.Module, nn.Module]:
    model = tiny_model(name)
    plan = make_plan(score(model, None, "random"), sparsity=0.3)
    return model, apply_plan(model, plan)


def wide_llama() -> nn.Module:
    """A LLaMA of 27 M parameters, 107 MiB."""
    config = LlamaConfig(
        vocab_size=1000,
        hidden_size=512,
        intermediate_size=8192,
        num_hidden_layers=2,
        num_attention_heads=8,
        num_key_value_heads=8,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_and_macs_are_those_of_the_model(name):
    model = tiny_model(name)
    profile = profile_model(model, seq_len=LENGTH, repeats=1, warmup=0)
    assert profile.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert profile.macs == _naive_macs(model)


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_and_macs_are_those_of_the_pruned_model(name):
    dense, pruned = _pruned(name)
    before, after = (profile_model(m, seq_len=LENGTH, repeats=1) for m in (dense, pruned))
    assert after.parameters == sum(parameter.numel() for parameter in pruned.parameters())
    assert after.macs == _naive_macs(pruned) < before.macs
    assert after.block_parameters < 0.72 * before.block_parameters


def test_block_parameters_are_those_of_the_decoder_blocks():
    model = tiny_model("llama")
    profile = profile_model(model, seq_len=LENGTH, repeats=1)
    layers = model.model.layers
    assert len(layers) == LAYERS
    assert profile.block_parameters == sum(p.numel() for p in layers.parameters())


def test_sizes_alone_give_the_same_counts_and_no_measurement():
    model = tiny_model("mistral")
    measured = profile_model(model, seq_len=LENGTH, repeats=1)
    counted = profile_shape(Adapter(model).shape, seq_len=LENGTH)
    assert (counted.parameters, counted.macs) == (measured.parameters, measured.macs)
    assert counted.latency is counted.tokens_per_second is counted.peak_memory is None


@pytest.mark.parametrize("name", ["huggyllama/llama-7b", "lmsys/vicuna-7b-v1.5"])
def test_the_published_counts_of_llama_7b_are_met_within_a_thousandth(name):
    profile = profile_shape(Adapter(empty_model(load_config(name))).shape, seq_len=512)
    assert profile.parameters == pytest.approx(6.738e9, rel=1e-3)
    assert profile.macs == pytest.approx(3.452e12, rel=1e-3)


def test_the_published_parameters_of_llama_13b_are_met_within_a_thousandth():
    shape = Adapter(empty_model(load_config("huggyllama/llama-13b"))).shape
    assert profile_shape(shape, seq_len=512).parameters == pytest.approx(13.016e9, rel=1e-3)


def test_what_was_measured_is_positive_and_consistent():
    profile = profile_model(tiny_model("llama"), seq_len=LENGTH, batch_size=3, repeats=3)
    assert profile.latency > 0
    assert profile.tokens_per_second == pytest.approx(3 * LENGTH / profile.latency)
    assert profile.peak_memory > 4 * profile.parameters
    assert (profile.device, profile.dtype, profile.batch_size) == ("cpu", "float32", 3)


def test_the_latency_is_the_median_of_the_passes_after_the_warm_up(monkeypatch):
    ends = iter([0, 50, 100, 103, 200, 201, 300, 307])  # start and end of each pass
    monkeypatch.setattr("bipcore.evaluation.profiling.time.perf_counter", lambda: next(ends))
    profile = profile_model(tiny_model("llama"), seq_len=2, repeats=3, warmup=1)
    assert profile.latency == 3


def test_as_many_passes_are_run_as_asked(monkeypatch):
    model, passes = tiny_model("llama"), []
    model.register_forward_hook(lambda *args: passes.append(1))
    profile_model(model, seq_len=4, repeats=4, warmup=2)
    assert len(passes) == 6


@pytest.mark.parametrize("length", [0, -1, 129])
def test_a_length_that_the_model_cannot_read_is_refused(length):
    model = tiny_model("llama")
    with pytest.raises(InputError, match=f"from 1 to 128, not {length}"):
        profile_model(model, seq_len=length)
    with pytest.raises(InputError, match=f"from 1 to 128, not {length}"):
        profile_shape(Adapter(model).shape, seq_len=length)


@pytest.mark.parametrize("settings", [{"repeats": 0}, {"batch_size": 0}, {"warmup": -1}])
def test_impossible_settings_are_refused(settings):
    with pytest.raises(InputError, match="at least"):
        profile_model(tiny_model("llama"), seq_len=4, **settings)


def test_rows_for_people_have_units_and_only_what_is_known():
    model = tiny_model("llama")
    counted = profile_rows(profile_shape(Adapter(model).shape, seq_len=LENGTH))
    measured = profile_rows(profile_model(model, seq_len=LENGTH, repeats=1))
    assert [name for name, _ in counted] == [name for name, _ in measured[:3]]
    assert [value.split()[-1] for _, value in measured] == [
        "M",
        "M",
        "G",
        "ms",
        measured[4][1],
        "MiB",
    ]


def test_peak_memory_is_that_of_the_model_whatever_else_is_held():
    """A pruned model beside its dense one: its weights and the pass, so less than the dense one."""
    dense = wide_llama()
    held = [torch.ones(2**25) for _ in range(2)]  # 256 MiB
    pruned = apply_plan(dense, make_plan(score(dense, None, "random"), sparsity=0.5))
    before, after = (profile_model(m, seq_len=64, repeats=2) for m in (dense, pruned))

    for model, profile in ((dense, before), (pruned, after)):
        widest = max(b.channels for b in Adapter(model).shape.blocks)
        activations = 4 * 64 * (4 * widest + 1000 + 8 * 512)
        assert 0 <= profile.peak_memory - weight_bytes(model) < 5 * activations + 4 * 2**20
    assert after.peak_memory < 0.7 * before.peak_memory
    assert len(held) == 2


def test_freed_memory_and_weights_that_were_never_read_are_not_taken_for_the_models(tmp_path):
    wide_llama().save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    del [torch.ones(2**16) for _ in range(400)][:]  # 100 MiB from the heap, freed again
    found = profile_model(model, seq_len=8, repeats=1, warmup=0)

    assert found.peak_memory < weight_bytes(model) + 8 * 2**20
