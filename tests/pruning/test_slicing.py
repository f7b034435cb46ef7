"""The pruned model equals the masked one, has the sizes of its plan, and says so."""

import pytest
import torch
from torch import nn

from bipcore.criteria import score
from bipcore.errors import InputError
from bipcore.models.adapters import Adapter
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan, masked_model
from tests.helpers.pruning import (
    CASES,
    UNIT_OF_FAMILY,
    UNITS,
    assert_same_outputs,
    generated_by,
    logits_of,
    mixed_plan,
    plan_for,
    pruned_and_masked,
    scores_of,
)
from tests.helpers.tiny import FAMILIES, GQA, tiny_model
from tests.helpers.tiny import one_thread as one_thread

WHOLE = BlockPlan(tuple(range(8)), tuple(range(96)))


def _middle_block_keeps(name: str, heads, channels) -> PruningPlan:
    return PruningPlan(scores_of(name).shape, (WHOLE, BlockPlan(heads, channels), WHOLE))


@pytest.mark.parametrize(("name", "unit", "sparsity"), CASES)
def test_pruned_equals_masked_on_padded_input_and_in_generation(name, unit, sparsity):
    assert_same_outputs(*pruned_and_masked(name, plan_for(name, sparsity, unit=unit)))


@pytest.mark.parametrize("name", FAMILIES)
def test_pruned_equals_masked_with_eager_attention(name):
    pair = pruned_and_masked(name, plan_for(name, unit=UNITS[name][0]))
    for model in pair:
        model.set_attn_implementation("eager")
    assert_same_outputs(*pair)


@pytest.mark.parametrize("name", FAMILIES)
def test_pruned_equals_masked_with_a_static_cache(name):
    pruned, masked = pruned_and_masked(name, plan_for(name, unit=UNITS[name][-1]))
    static = generated_by(pruned, cache_implementation="static")
    assert torch.equal(static, generated_by(masked, cache_implementation="static"))


@pytest.mark.parametrize("name", FAMILIES)
def test_generation_with_a_cache_equals_generation_without(name):
    pruned = apply_plan(tiny_model(name), plan_for(name, unit=UNITS[name][0]))
    assert torch.equal(generated_by(pruned), generated_by(pruned, use_cache=False))


@pytest.mark.parametrize(("name", "unit"), UNIT_OF_FAMILY)
def test_blocks_of_different_widths_equal_masked_blocks(name, unit):
    pair = pruned_and_masked(name, mixed_plan(name, unit))
    assert_same_outputs(*pair)
    for model in pair:
        model.set_attn_implementation("eager")
    assert_same_outputs(*pair)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_mask_changes_the_outputs(name):
    model = tiny_model(name)
    difference = logits_of(masked_model(model, plan_for(name))) - logits_of(model)
    assert difference.abs().max() > 0.1


@pytest.mark.parametrize(("name", "unit"), UNIT_OF_FAMILY)
def test_masked_hides_exactly_what_the_plan_removes(name, unit):
    plan = plan_for(name, unit=unit)
    blocks = Adapter(masked_model(tiny_model(name), plan)).blocks
    for block, keep in zip(blocks, plan.blocks, strict=True):
        used = block.o.weight.abs().sum(0).view(8, -1).sum(1) > 0
        assert used.nonzero().flatten().tolist() == list(keep.heads)
        used = block.down.weight.abs().sum(0) > 0
        assert used.nonzero().flatten().tolist() == list(keep.channels)


@pytest.mark.parametrize("first", [plan_for, mixed_plan], ids=["uniform", "mixed"])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_pruned_model_can_be_pruned_again(name, first):
    once = apply_plan(tiny_model(name), first(name))
    plan = make_plan(score(once, None, "random", seed=9), sparsity=0.3, allocation="paper")
    twice = apply_plan(once, plan)
    assert_same_outputs(twice, masked_model(once, plan))
    assert Adapter(twice).shape.parameters == plan.pruned_shape.parameters


@pytest.mark.parametrize("allocation", ["uniform", "paper"])
@pytest.mark.parametrize("gone", ["attention", "ffn"])
def test_a_model_without_one_sublayer_can_be_pruned_again(gone, allocation):
    heads, channels = ((), WHOLE.channels) if gone == "attention" else (WHOLE.heads, ())
    once = apply_plan(tiny_model("llama"), _middle_block_keeps("llama", heads, channels))
    scores = score(once, None, "random", seed=9)
    plan = make_plan(scores, sparsity=0.3, allocation=allocation)
    assert_same_outputs(apply_plan(once, plan), masked_model(once, plan))


@pytest.mark.parametrize("name", FAMILIES)
def test_attention_can_be_left_whole(name):
    plan = plan_for(name, 0.3, unit="none")
    pruned, masked = pruned_and_masked(name, plan)
    assert_same_outputs(pruned, masked)
    before, after = tiny_model(name), Adapter(pruned).blocks
    for was, now in zip(Adapter(before).blocks, after, strict=True):
        assert torch.equal(was.o.weight, now.o.weight)
        assert now.down.in_features < was.down.in_features


@pytest.mark.parametrize("name", GQA)
def test_a_group_can_go_while_the_others_lose_query_heads(name):
    group = 8 // scores_of(name).shape.blocks[0].kv_heads
    plan = _middle_block_keeps(name, (group,), (0, 5))
    assert plan.pruned_shape.blocks[1].kv_heads == 1
    assert_same_outputs(*pruned_and_masked(name, plan))


@pytest.mark.parametrize(("name", "unit", "sparsity"), CASES)
def test_the_pruned_model_has_the_sizes_the_plan_says(name, unit, sparsity):
    plan = plan_for(name, sparsity, unit=unit)
    pruned = apply_plan(tiny_model(name), plan)
    counted = sum(parameter.numel() for parameter in pruned.parameters())
    assert counted == plan.pruned_shape.parameters
    assert Adapter(pruned).shape == plan.pruned_shape


@pytest.mark.parametrize(("name", "unit", "sparsity"), CASES)
def test_linear_layers_say_the_sizes_of_their_weights(name, unit, sparsity):
    pruned = apply_plan(tiny_model(name), plan_for(name, sparsity, unit=unit))
    for module in pruned.modules():
        if isinstance(module, nn.Linear):
            assert (module.out_features, module.in_features) == tuple(module.weight.shape)
            assert module.bias is None or module.bias.shape == (module.out_features,)


@pytest.mark.parametrize(("name", "unit"), [case for case in UNIT_OF_FAMILY if case[0] in GQA])
def test_attention_says_how_many_query_heads_share_a_key_value_head(name, unit):
    plan = mixed_plan(name, unit)
    blocks = Adapter(apply_plan(tiny_model(name), plan)).blocks
    said = [block.attention.num_key_value_groups for block in blocks]
    assert said == [shape.heads // shape.kv_heads for shape in plan.pruned_shape.blocks]


WIDTH_ATTRIBUTES = {
    "opt": ("self_attn", {"num_heads": 8, "embed_dim": 64}),
    "phi3": ("self_attn", {"num_key_value_heads": 4}),
    "llama": ("mlp", {"intermediate_size": 96}),
}


@pytest.mark.parametrize("name", WIDTH_ATTRIBUTES)
def test_modules_say_the_widths_they_have(name):
    path, dense = WIDTH_ATTRIBUTES[name]
    plan = mixed_plan(name, UNITS[name][-1])
    whole, blocks = plan.shape.blocks[0], Adapter(apply_plan(tiny_model(name), plan)).blocks
    for block, now in zip(blocks, plan.pruned_shape.blocks, strict=True):
        said = {key: getattr(block.module.get_submodule(path), key) for key in dense}
        share = now.channels / whole.channels if path == "mlp" else now.heads / whole.heads
        assert said == {key: value * share for key, value in dense.items()}


@pytest.mark.parametrize("name", ["llama-gqa", "mistral", "qwen2", "qwen3", "gemma2", "phi3"])
def test_the_configuration_says_widths_that_all_blocks_share(name):
    plan = plan_for(name)
    config, width = apply_plan(tiny_model(name), plan).config, plan.pruned_shape.blocks[0]
    assert config.intermediate_size == width.channels
    assert config.num_attention_heads == width.heads
    assert config.num_key_value_heads == width.kv_heads
    assert config.head_dim == plan.shape.head_dim


@pytest.mark.parametrize("name", FAMILIES)
def test_the_configuration_keeps_its_widths_where_blocks_differ(name):
    model = tiny_model(name)
    assert apply_plan(model, mixed_plan(name)).config.to_dict() == model.config.to_dict()


@pytest.mark.parametrize(("name", "field"), [("opt", "ffn_dim"), ("neox", "intermediate_size")])
def test_the_configuration_says_the_channels_where_heads_cannot_be_said(name, field):
    plan = plan_for(name)
    config = apply_plan(tiny_model(name), plan).config
    assert getattr(config, field) == plan.pruned_shape.blocks[0].channels
    assert config.num_attention_heads == 8


@pytest.mark.parametrize("name", FAMILIES)
def test_the_modules_stay_those_of_transformers(name):
    model = tiny_model(name)
    pruned = apply_plan(model, plan_for(name))
    assert [type(m) for m in pruned.modules()] == [type(m) for m in model.modules()]


def test_a_plan_for_other_widths_is_refused():
    for name, other in (("llama", "mistral"), ("qwen2", "llama-gqa"), ("opt", "gemma2")):
        with pytest.raises(InputError, match="another shape"):
            apply_plan(tiny_model(name), plan_for(other))


def test_a_plan_for_heads_of_another_width_is_refused():
    with pytest.raises(InputError, match="another shape"):
        apply_plan(tiny_model("gemma2"), plan_for("qwen3"))


def test_a_plan_is_refused_by_the_model_it_was_applied_to():
    plan = plan_for("llama")
    pruned = apply_plan(tiny_model("llama"), plan)
    with pytest.raises(InputError, match="another shape"):
        apply_plan(pruned, plan)
    with pytest.raises(InputError, match="another shape"):
        masked_model(pruned, plan)


def test_a_model_without_its_weights_is_refused():
    with pytest.raises(InputError, match="offloaded"):
        apply_plan(tiny_model("llama").to("meta"), plan_for("llama"))
