"""Families whose blocks are like another's: scores, slicing, exports, and what each has of its own.

What is general is tested on the families of `FAMILIES`; here is one test of each kind for the
others.
"""

import json
from dataclasses import replace
from functools import cache

import pytest
import torch
import transformers as tf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bipcore.criteria import find_criterion, score
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.export.export import load_pruned, save_pruned
from bipcore.models.adapters import Adapter
from bipcore.models.families import FAMILIES as SUPPORTED
from bipcore.models.loading import empty_model, load_model
from bipcore.models.shapes import BlockShape, ModelShape
from bipcore.models.streaming import is_streamed
from bipcore.pruning.choosing import make_plan, planned
from bipcore.pruning.editing import drop_attention, drop_head
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.resolving import resolve
from bipcore.pruning.slicing import apply_plan, masked_model
from bipcore.specs import PlanSpec
from tests.helpers.folders import text_tokenizer
from tests.helpers.pruning import (
    assert_same_outputs,
    generated_by,
    mixed_plan,
    plan_for,
    pruned_and_masked,
    scores_of,
)
from tests.helpers.reference import reference_blocks, reference_scores
from tests.helpers.reference_gradients import propagated_scores
from tests.helpers.tiny import (
    CONFIGS,
    HEADS_STAY,
    LAYERS,
    MORE_CONFIGS,
    MORE_FAMILIES,
    tiny_model,
    tiny_tokens,
    word_tokenizer,
)
from tests.helpers.tiny import one_thread as one_thread

KV_HEADS = {
    "smollm3": 2,
    "granite": 4,
    "gemma": 1,
    "ministral3": 4,
    "seed_oss": 2,
    "ernie4_5": 2,
    "hunyuan": 4,
    "starcoder2": 2,
    "glm": 2,
    "glm4": 4,
    "olmo2": 4,
    "olmo3": 8,
    "cohere2": 2,
    "phi": 4,
    "stablelm": 4,
    "stablelm-parallel": 8,
}
HEAD_DIM = {
    "gemma": 12,
    "ministral3": 16,
    "seed_oss": 12,
    "ernie4_5": 12,
    "hunyuan": 16,
    "glm": 12,
    "glm4": 16,
}
WITH_FORMULA = ("llm-bip", "llm-bip-gated", "wanda", "wanda-sp", "flap", "magnitude")
PROPAGATION = "importance-propagation"
WHOLE = BlockPlan(tuple(range(8)), tuple(range(96)))
NO_ATTENTION, NO_FFN = BlockPlan((), WHOLE.channels), BlockPlan(WHOLE.heads, ())

each_family = pytest.mark.parametrize("name", MORE_FAMILIES)


def _blocks(name: str, *blocks: BlockPlan) -> PruningPlan:
    return PruningPlan(scores_of(name).shape, blocks)


PLANS = {
    "uniform": plan_for,
    "mixed": mixed_plan,
    "groups": lambda name: plan_for(name, unit="auto" if name in HEADS_STAY else "kv-group"),
    "sublayers-gone": lambda name: _blocks(name, NO_ATTENTION, WHOLE, NO_FFN),
}


@cache
def _pruned(name: str, case: str) -> nn.Module:
    return apply_plan(tiny_model(name), PLANS[case](name))


def test_every_supported_family_has_a_tiny_model():
    configs = [make() for make in (CONFIGS | MORE_CONFIGS).values()]
    assert {config.model_type for config in configs} == {*SUPPORTED}


@each_family
def test_the_shape_is_that_of_the_configuration_and_counts_every_parameter_and_mac(name):
    model = tiny_model(name)
    shape = Adapter(model).shape
    assert shape.blocks == (BlockShape(8, KV_HEADS[name], 96),) * LAYERS
    assert (shape.hidden, shape.head_dim) == (64, HEAD_DIM.get(name, 8))
    assert shape.parameters == sum(parameter.numel() for parameter in model.parameters())
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tiny_tokens(1, 32), use_cache=False)
    assert shape.macs(32) == pytest.approx(counter.get_total_flops() / 2, rel=1e-3)


@each_family
def test_the_family_knows_the_biases_of_the_stock_class(name):
    model = tiny_model(name)
    for block in Adapter(model).blocks:
        said = block.family.output_biases
        flags = [getattr(model.config, flag) if isinstance(flag, str) else flag for flag in said]
        assert flags == [block.o.bias is not None, block.down.bias is not None]


@each_family
def test_weights_and_gains_are_those_of_the_reference(name):
    model = tiny_model(name)
    references = reference_blocks(model, tiny_tokens(1, 4))
    for block, reference in zip(Adapter(model).blocks, references, strict=True):
        weights = block.weights()
        for field in ("q", "k", "v", "o", "up", "down"):
            assert torch.equal(getattr(weights, field).double(), getattr(reference, field)), field
        gains = (weights.ffn_norm_gain, weights.o_gain, weights.down_gain)
        expected = (reference.gain, reference.o_gain, reference.down_gain)
        for one, other in zip(gains, expected, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=0)


@each_family
def test_scores_equal_the_reference(name):
    model, tokens = tiny_model(name), tiny_tokens()
    statistics = collect_statistics(model, CalibrationSet.from_tokens(tokens))
    references = reference_blocks(model, tokens)
    expected = {c: [reference_scores(block, c) for block in references] for c in WITH_FORMULA}
    expected[PROPAGATION] = propagated_scores(model)
    for criterion, blocks in expected.items():
        scores = score(model, statistics, criterion).blocks
        for block, reference in zip(scores, blocks, strict=True):
            for field, values in reference.items():
                found = getattr(block, field).double()
                torch.testing.assert_close(found, values, rtol=1e-4, atol=0)


@pytest.mark.parametrize("case", PLANS)
@each_family
def test_pruned_equals_masked_with_padding_and_in_generation(name, case):
    assert_same_outputs(_pruned(name, case), masked_model(tiny_model(name), PLANS[case](name)))


@each_family
def test_pruned_equals_masked_with_eager_attention(name):
    pair = pruned_and_masked(name, mixed_plan(name))
    for model in pair:
        model.set_attn_implementation("eager")
    assert_same_outputs(*pair)


def test_the_attention_of_seed_oss_says_the_heads_that_it_has():
    blocks = Adapter(_pruned("seed_oss", "mixed")).blocks
    assert [block.attention.num_attention_heads for block in blocks] == [
        block.shape.heads for block in blocks
    ]


@pytest.mark.parametrize("case", ["mixed", "sublayers-gone"])
@each_family
def test_every_kind_of_cache_gives_the_tokens_that_no_cache_gives(name, case):
    pruned = _pruned(name, case)
    expected = generated_by(pruned, use_cache=False)
    assert torch.equal(generated_by(pruned), expected)
    if case == "mixed":
        assert torch.equal(generated_by(pruned, cache_implementation="static"), expected)


@each_family
def test_what_the_modelling_file_holds_is_read_again_and_pruned_again(tmp_path, name):
    plan = PLANS["sublayers-gone"](name)
    pruned = _pruned(name, "sublayers-gone")
    done = save_pruned(pruned, word_tokenizer(94), tmp_path / "out", plan=plan)
    assert (done.tier, done.max_logit_difference) == (2, 0.0)
    once, _ = load_pruned(tmp_path / "out", device="cpu")
    assert_same_outputs(once, pruned)
    again = make_plan(score(once, None, "random", seed=9), sparsity=0.3, allocation="paper")
    assert_same_outputs(apply_plan(once, again), masked_model(once, again))


VISION = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
}


@pytest.mark.parametrize(("half", "tied"), [("mistral", False), ("ministral3", True)])
def test_of_a_mistral_that_reads_pictures_the_language_model_is_read(tmp_path, half, tied):
    tie = {"tie_word_embeddings": tied}
    text = (CONFIGS | MORE_CONFIGS)[half]().to_dict() | {"vocab_size": 260, **tie}
    vision = {"model_type": "pixtral", **VISION}
    config = tf.Mistral3Config(text_config=text, vision_config=vision, **tie)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        whole = tf.Mistral3ForConditionalGeneration(config).eval()
        for parameter in whole.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    whole.save_pretrained(tmp_path)
    text_tokenizer().save_pretrained(tmp_path)
    tokens = tiny_tokens(2, 24)
    for memory in ("auto", "400kB"):
        model, _ = load_model(str(tmp_path), device="cpu", dtype="float32", memory=memory)
        assert (model.config.model_type, is_streamed(model)) == (half, memory != "auto")
        with torch.no_grad():
            assert torch.equal(model(tokens).logits, whole(input_ids=tokens).logits)


@pytest.mark.parametrize("half", ["bert", ["mistral"], None])
def test_a_mistral_that_reads_pictures_with_another_language_model_is_refused(tmp_path, half):
    said = {"model_type": "mistral3", "text_config": {"model_type": half}}
    (tmp_path / "config.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match="is not supported; supported are") as raised:
        load_model(str(tmp_path))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["phi", "stablelm"])
def test_one_whose_heads_have_norms_that_would_have_to_be_cut_is_refused(name):
    config = MORE_CONFIGS[name]()
    config.qk_layernorm = True
    with pytest.raises(InputError, match=r"that normalises its heads \(qk_layernorm\) is not supp"):
        Adapter(empty_model(config))


@pytest.mark.parametrize("name", HEADS_STAY)
def test_heads_that_are_normalised_together_go_together_or_stay(name):
    plan, scores = plan_for(name, 0.3), scores_of(name)
    assert plan.spec["unit"] == "none"
    assert {block.heads for block in plan.pruned_shape.blocks} == {8}
    for unit in ("head", "query-head", "kv-group"):
        with pytest.raises(InputError, match="none goes alone; use the unit auto or none"):
            plan_for(name, 0.3, unit=unit)
    with pytest.raises(InputError, match="a plan keeps all heads of a block, or none"):
        drop_head(plan, 1, 0, scores)
    assert PruningPlan.from_json(plan.to_json()) == plan
    other = replace(plan, shape=replace(plan.shape, heads_stay=False))
    with pytest.raises(InputError, match="of another shape"):
        apply_plan(tiny_model(name), drop_head(other, 1, 0))
    assert drop_attention(plan, 1).pruned_shape.blocks[1].heads == 0
    for criterion, sparsity in (("sleb", 0.3), ("blockpruner", 0.7), ("2ssp", 0.45)):
        spec = resolve(PlanSpec(sparsity), find_criterion(criterion), scores.shape)
        made = planned(scores, spec)
        assert {block.heads for block in made.pruned_shape.blocks} == {0, 8}, criterion
        assert_same_outputs(
            apply_plan(tiny_model(name), made), masked_model(tiny_model(name), made)
        )


def test_without_a_head_the_others_of_an_olmo_would_be_changed():
    """Why its heads stay: the norm over all of them changes with the rows that it is taken over."""
    model = tiny_model("olmo2")
    attention = Adapter(model).blocks[0].attention
    x = attention.q_proj(torch.randn(5, 64, generator=torch.Generator().manual_seed(0)))
    whole = attention.q_norm(x)[:, :56]
    attention.q_norm.weight = nn.Parameter(attention.q_norm.weight[:56])
    assert (attention.q_norm(x[:, :56]) - whole).abs().max() > 0.01


def test_what_is_written_of_other_shapes_is_what_it_always_was():
    said = scores_of("llama").shape.to_dict()
    assert "heads_stay" not in said
    assert ModelShape.from_dict(said) == scores_of("llama").shape
    with pytest.raises(InputError, match="heads_stay is true or false"):
        ModelShape.from_dict(said | {"heads_stay": "yes"})
