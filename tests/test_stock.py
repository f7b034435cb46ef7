"""A LLaMA whose head count does not divide its hidden size, as the Mistral it goes out as."""

import pytest
import torch
import transformers as tf
from torch import nn

from bipcore.criteria import score
from bipcore.plan import make_plan
from bipcore.slicing import apply_plan
from bipcore.stock import stock_form, stock_problem
from tests.pruning import generated_by, logits_of, plan_for
from tests.tiny import CONFIGS, tiny_model

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
VARIANTS = {
    "rope base": {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
    "rope scaling": {"rope_parameters": {"rope_theta": 500.0, **LLAMA3}},
    "tied": {"tie_word_embeddings": True},
    "epsilon": {"rms_norm_eps": 0.1},
    "activation": {"hidden_act": "gelu"},
    "wide heads": {"head_dim": 24},
    "shared keys": {"num_key_value_heads": 2},
}


def _pruned(**fields) -> tuple[nn.Module, object]:
    """A pruned LLaMA with 6 of 8 heads, its configuration changed, and its plan."""
    config = tf.LlamaConfig(**{**CONFIGS["llama"]().to_dict(), "head_dim": None, **fields})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tf.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
    plan = make_plan(score(model, None, "random"), sparsity=0.25)
    assert plan.pruned_shape.blocks[0].heads == 6
    return apply_plan(model, plan), plan


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_mistral_says_what_the_llama_says(variant):
    model, plan = _pruned(**VARIANTS[variant])
    twin = stock_form(model, plan)
    assert type(twin) is tf.MistralForCausalLM
    torch.testing.assert_close(logits_of(twin), logits_of(model), rtol=0, atol=1e-6)
    assert torch.equal(generated_by(twin), generated_by(model))


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_variants_are_not_all_the_same_model(variant):
    assert not torch.equal(logits_of(_pruned(**VARIANTS[variant])[0]), logits_of(_pruned()[0]))


def test_the_mistral_has_no_sliding_window():
    assert stock_form(*_pruned()).config.sliding_window is None


def test_the_mistral_shares_the_weights_of_the_llama():
    model, plan = _pruned()
    twin = stock_form(model, plan)
    places = {p.data_ptr() for p in model.parameters()}
    assert {p.data_ptr() for p in twin.parameters()} == places
    assert not any(tensor.is_meta for tensor in (*twin.parameters(), *twin.buffers()))


def test_the_mistral_keeps_the_settings_of_generation():
    model, plan = _pruned()
    model.generation_config.eos_token_id = [2, 5]
    assert stock_form(model, plan).generation_config.eos_token_id == [2, 5]


def test_a_head_count_that_divides_needs_no_other_class():
    plan = plan_for("llama")
    model = apply_plan(tiny_model("llama"), plan)
    assert stock_form(model, plan) is model


@pytest.mark.parametrize("name", ["mistral", "qwen2", "qwen3", "phi3-mha"])
def test_families_without_the_rule_keep_their_class(name):
    plan = plan_for(name, 0.25, unit="kv-group" if name != "phi3-mha" else "head")
    model = apply_plan(tiny_model(name), plan)
    assert stock_form(model, plan) is model


def test_a_plan_that_a_stock_class_can_hold_has_no_problem():
    assert stock_problem(plan_for("llama", 0.25), CONFIGS["llama"]()) is None
