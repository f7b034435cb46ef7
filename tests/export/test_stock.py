"""Which stock class holds a pruned model: itself, for a LLaMA a Mistral, or none, and why."""

import re
from dataclasses import replace

import pytest
import torch
import transformers as tf
from torch import nn

from bipcore.criteria import score
from bipcore.errors import InputError
from bipcore.export.export import load_pruned, save_pruned
from bipcore.export.forms import added_biases
from bipcore.export.stock import stock_form, stock_problem
from bipcore.models.adapters import Adapter
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.pruning import generated_by, logits_of, mixed_plan, plan_for, scores_of
from tests.helpers.tiny import CONFIGS, random_model, tiny_model, word_tokenizer

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


def _whole_but(name: str, **kept) -> PruningPlan:
    whole = {"heads": tuple(range(8)), "channels": tuple(range(96))}
    return PruningPlan(scores_of(name).shape, (BlockPlan(**whole | kept),) * 3)


PROBLEMS = {
    "widths": ("mistral", mixed_plan("mistral"), "different widths"),
    "no ffn": ("mistral", _whole_but("mistral", channels=()), "removes whole sublayers"),
    "opt": ("opt", plan_for("opt"), "Stock OPT classes cannot be loaded with fewer heads"),
    "neox": ("neox", plan_for("neox"), "Stock GPT-NeoX classes cannot be loaded with fewer heads"),
    "gemma2": ("gemma2", plan_for("gemma2", 0.25), "Gemma 2 insists .* and 6 does not divide 64"),
    "gemma3": ("gemma3", plan_for("gemma3", 0.25), "Gemma 3 .* insists .* and 6 does not"),
    "no twin": ("llama-gqa", plan_for("llama-gqa", 0.25), "LLaMA insists .* and 6 does not divide"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_why_no_stock_class_can_hold_a_plan_is_one_sentence(case):
    name, plan, sentence = PROBLEMS[case]
    for given in (None, apply_plan(tiny_model(name), plan)):
        problem = stock_problem(plan, CONFIGS[name](), given)
        assert re.search(sentence, problem)
        assert re.fullmatch(r"[A-Z][^.]*\.", problem)
    with pytest.raises(InputError, match=re.escape(problem)):
        stock_form(given, plan)


@pytest.mark.parametrize("field", ["attention_bias", "mlp_bias"])
def test_a_llama_with_biases_has_no_mistral_twin(field):
    config = CONFIGS["llama"]()
    setattr(config, field, True)
    assert "6 does not divide 64" in stock_problem(plan_for("llama", 0.25), config)


def _compensated(name: str, kind: str, sparsity: float = 0.5, **options) -> PruningPlan:
    plan = plan_for(name, sparsity, **options)
    return replace(plan, spec={**plan.spec, "compensation": kind})


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3"])
def test_the_plan_says_that_biases_will_come(name):
    problem = stock_problem(_compensated(name, "bias"), CONFIGS[name]())
    assert "adds biases" in problem
    assert stock_problem(_compensated(name, "least-squares"), CONFIGS[name]()) is None


@pytest.mark.parametrize("name", ["llama-gqa", "opt", "neox"])
def test_biases_where_the_stock_class_has_them_are_no_problem(name):
    unit = "none" if name in ("opt", "neox") else "auto"
    plan = _compensated(name, "bias", 0.3 if unit == "none" else 0.5, unit=unit)
    model = apply_plan(tiny_model(name), plan)
    assert stock_problem(plan, CONFIGS[name]()) is None
    assert stock_problem(plan, model.config, model) is None


def test_a_compensation_of_nothing_brings_no_biases():
    assert stock_problem(_compensated("llama", "bias", 0.0), CONFIGS["llama"]()) is None


def test_the_biases_of_the_model_count_and_not_what_the_plan_says():
    plan = _compensated("llama", "bias")
    model = apply_plan(tiny_model("llama"), plan)
    assert stock_problem(plan, model.config, model) is None
    Adapter(model).blocks[1].o.bias = nn.Parameter(torch.ones(64))
    assert "adds biases" in stock_problem(plan_for("llama"), model.config, model)
    assert added_biases(model) == [[False, False], [True, False], [False, False]]


LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 2.1, 2.2, 2.3],
}


def _phi3_longrope() -> nn.Module:
    fields = {"original_max_position_embeddings": 32, "rope_parameters": LONGROPE}
    return random_model(tf.Phi3Config(**{**CONFIGS["phi3"]().to_dict(), **fields}))


def test_a_width_that_the_configuration_works_out_otherwise_is_known_from_it_alone():
    plan = plan_for("phi3")
    problem = stock_problem(plan, _phi3_longrope().config)
    assert re.match(r"Stock Phi-3 classes cannot be built with the widths that are left: ", problem)
    assert stock_problem(plan, CONFIGS["phi3"]()) is None
    assert stock_problem(plan_for("phi3", 0.3, unit="none"), _phi3_longrope().config) is None


def test_what_such_a_class_cannot_hold_goes_out_with_a_modelling_file(tmp_path):
    plan = plan_for("phi3")
    model = apply_plan(_phi3_longrope(), plan)
    done = save_pruned(model, word_tokenizer(94), tmp_path / "out", plan=plan)
    assert (done.tier, done.max_logit_difference) == (2, 0.0)
    again, _ = load_pruned(tmp_path / "out", device="cpu")
    assert torch.equal(logits_of(again), logits_of(model))
    assert torch.equal(generated_by(again), generated_by(model))


def test_a_stock_class_that_is_built_with_other_widths_is_no_place_for_them():
    config = CONFIGS["llama"]()
    config.hidden_size = 96
    assert stock_problem(plan_for("llama"), config) is None
    config.num_hidden_layers = 2
    assert "other widths" in stock_problem(plan_for("llama"), config)
