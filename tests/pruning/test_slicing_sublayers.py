"""Blocks without attention, without FFN, without both: the pruned model equals the masked one."""

import copy
from functools import cache

import pytest
import torch
import transformers as tf
from torch import nn

from bipcore.criteria import score
from bipcore.errors import InputError
from bipcore.models.adapters import Adapter
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan, masked_model
from tests.helpers.pairs import in_turn
from tests.helpers.pruning import assert_same_outputs, generated_by, logits_of, scores_of
from tests.helpers.tiny import CONFIGS, FAMILIES, padded_batch, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

WHOLE = BlockPlan(tuple(range(8)), tuple(range(96)))
NO_ATTENTION = BlockPlan((), WHOLE.channels)
NO_FFN = BlockPlan(WHOLE.heads, ())
NOTHING = BlockPlan((), ())

CASES = {
    "first-attention": (NO_ATTENTION, WHOLE, WHOLE),
    "later-attention": (WHOLE, NO_ATTENTION, WHOLE),
    "first-two-attentions": (NO_ATTENTION, NO_ATTENTION, WHOLE),
    "last-two-attentions": (WHOLE, NO_ATTENTION, NO_ATTENTION),
    "ffn": (NO_FFN, WHOLE, NO_FFN),
    "all-ffns": (NO_FFN, NO_FFN, NO_FFN),
    "whole-blocks": (NOTHING, NO_FFN, NOTHING),
}

_HYBRID = {"num_hidden_layers": 4, "sliding_window": 5}
HYBRIDS = {
    name: {"layer_types": [f"{kind}_attention" for kind in kinds], **_HYBRID, **more}
    for name, kinds, more in (
        ("gemma2", ("sliding", "full", "sliding", "full"), {}),
        ("gemma3", ("sliding", "sliding", "full", "full"), {}),
        ("qwen2", ("full", "sliding", "full", "sliding"), {"use_sliding_window": True}),
    )
}
"""Models of full and of sliding attention: a batch is longer than the window."""
LOST = [(0,), (1,), (0, 1), (0, 2), (1, 3), (0, 1, 2), (1, 2, 3)]
"""Of which blocks the attention goes; (0, 2) and (1, 3) leave one kind of attention."""


def _plan(name: str, case: str) -> PruningPlan:
    return PruningPlan(scores_of(name).shape, CASES[case])


def _pair(name: str, case: str) -> tuple[nn.Module, nn.Module]:
    model, plan = tiny_model(name), _plan(name, case)
    return apply_plan(model, plan), masked_model(model, plan)


def _unpadded(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(tiny_tokens(2, 12)).logits


@pytest.mark.parametrize(("name", "case"), in_turn(FAMILIES, tuple(CASES)))
def test_pruned_equals_masked_with_either_attention(name, case):
    pair = _pair(name, case)
    for attention in ("eager",) if name == "gemma2" else ("sdpa", "eager"):
        for model in pair:
            model.set_attn_implementation(attention)
        assert_same_outputs(*pair)
        torch.testing.assert_close(*map(_unpadded, pair), rtol=0, atol=1e-4)


@pytest.mark.parametrize(("name", "case"), in_turn(FAMILIES, tuple(CASES)))
def test_generation_with_a_cache_equals_generation_without(name, case):
    pruned, _ = _pair(name, case)
    assert torch.equal(generated_by(pruned), generated_by(pruned, use_cache=False))


@pytest.mark.parametrize(
    ("name", "case"), in_turn(FAMILIES, ("first-two-attentions", "whole-blocks"), each=1)
)
def test_pruned_equals_masked_with_a_static_cache_and_with_beams(name, case):
    pruned, masked = _pair(name, case)
    for options in ({"cache_implementation": "static"}, {"num_beams": 3}):
        assert torch.equal(generated_by(pruned, **options), generated_by(masked, **options))


@pytest.mark.parametrize("name", FAMILIES)
def test_looking_up_tokens_in_the_prompt_takes_the_cache_back(name):
    model, _ = _pair(name, "first-attention")
    options = {"max_new_tokens": 20, "do_sample": False, "eos_token_id": None}
    tokens = tiny_tokens(1, 6).repeat(1, 2)
    plain = model.generate(tokens, **options)
    assert torch.equal(model.generate(tokens, prompt_lookup_num_tokens=3, **options), plain)


@pytest.mark.parametrize("name", FAMILIES)
def test_tokens_one_at_a_time_know_their_positions(name):
    pruned, masked = _pair(name, "first-attention")
    tokens = tiny_tokens(2, 8)
    with torch.no_grad():
        start = pruned(tokens[:, :5], use_cache=True)
        assert start.past_key_values.get_seq_length() == 5
        then = pruned(tokens[:, 5:], past_key_values=start.past_key_values).logits
        torch.testing.assert_close(then, masked(tokens).logits[:, 5:], rtol=0, atol=1e-4)


def test_a_block_without_attention_keeps_one_number_a_token_in_the_cache():
    pruned, _ = _pair("llama", "first-attention")
    tokens, mask = padded_batch()
    with torch.no_grad():
        layers = pruned(tokens, attention_mask=mask, use_cache=True).past_key_values.layers
    assert [tuple(layer.keys.shape) for layer in layers[:2]] == [(3, 1, 18, 1), (3, 8, 18, 8)]


@cache
def _hybrid(name: str) -> nn.Module:
    config = type(CONFIGS[name]()).from_dict(CONFIGS[name]().to_dict() | HYBRIDS[name])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = tf.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
    return model


@pytest.mark.parametrize(("lost", "name"), in_turn(LOST, tuple(HYBRIDS)))
def test_sliding_and_full_attention_can_go_in_any_order(name, lost):
    model = _hybrid(name)
    blocks = tuple(NO_ATTENTION if index in lost else WHOLE for index in range(4))
    plan = PruningPlan(Adapter(model).shape, blocks)
    pruned, masked = apply_plan(model, plan), masked_model(model, plan)
    assert_same_outputs(pruned, masked)
    assert torch.equal(generated_by(pruned), generated_by(pruned, use_cache=False))
    static = generated_by(pruned, cache_implementation="static")
    assert torch.equal(static, generated_by(masked, cache_implementation="static"))


@pytest.mark.parametrize("name", HYBRIDS)
def test_the_window_matters_in_these_batches(name):
    model = _hybrid(name)
    wide = copy.deepcopy(model)
    wide.config.sliding_window = 1000
    assert (logits_of(model) - logits_of(wide)).abs().max() > 1e-3


@pytest.mark.parametrize("name", FAMILIES)
def test_a_model_without_any_attention_is_refused(name):
    plan = PruningPlan(scores_of(name).shape, (NO_ATTENTION, NOTHING, NO_ATTENTION))
    with pytest.raises(InputError, match="removes the attention of every block"):
        apply_plan(tiny_model(name), plan)


@pytest.mark.parametrize("name", ["llama", "llama-gqa", "opt", "neox"])
def test_what_is_left_of_a_sublayer_is_the_bias_of_its_output(name):
    block = Adapter(_pair(name, "whole-blocks")[0]).blocks[0]
    hidden = torch.randn(2, 5, 64)
    cosine = {"position_embeddings": None, "attention_mask": None}
    given, weights = block.attention(hidden, **cosine)
    bias = torch.zeros(64) if block.o.bias is None else block.o.bias
    assert weights is None
    assert torch.equal(given, bias.expand(2, 5, 64))


@pytest.mark.parametrize("name", FAMILIES)
def test_the_modules_of_a_sublayer_that_is_gone_stay_and_say_so(name):
    pruned, _ = _pair(name, "whole-blocks")
    adapter = Adapter(pruned)
    assert adapter.shape == _plan(name, "whole-blocks").pruned_shape
    assert adapter.blocks[0].o.weight.shape == (64, 0)
    assert [type(m) for m in pruned.modules()] == [type(m) for m in tiny_model(name).modules()]
    assert pruned.state_dict().keys() == tiny_model(name).state_dict().keys()


@pytest.mark.parametrize("name", FAMILIES)
def test_the_dense_model_keeps_its_attention(name):
    model = tiny_model(name)
    before = logits_of(model)
    apply_plan(model, _plan(name, "whole-blocks"))
    assert all("forward" not in vars(module) for module in model.modules())
    assert torch.equal(logits_of(model), before)


def test_a_copy_has_a_sublayer_of_its_own():
    pruned, masked = _pair("llama-gqa", "first-attention")
    twin = copy.deepcopy(pruned)
    with torch.no_grad():
        Adapter(pruned).blocks[0].o.bias.add_(1)
    torch.testing.assert_close(logits_of(twin), logits_of(masked), rtol=0, atol=1e-4)
    assert not torch.allclose(logits_of(pruned), logits_of(masked), atol=1e-2)


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "gemma2"])
def test_the_pruned_model_can_be_cast(name):  # Gemma 2 itself gives nan in float64 with padding
    pruned, masked = _pair(name, "whole-blocks")
    logits = logits_of(pruned.double())
    assert logits.dtype == torch.float64
    torch.testing.assert_close(logits, logits_of(masked.double()), rtol=0, atol=1e-4)
    assert generated_by(pruned.bfloat16()).shape == (3, 24)


def test_gradients_flow_past_a_sublayer_that_is_gone():
    pruned, _ = _pair("llama-gqa", "whole-blocks")
    pruned(tiny_tokens(1, 8)).logits.sum().backward()
    blocks = Adapter(pruned).blocks
    assert blocks[0].o.bias.grad.abs().sum() > 0
    assert pruned.get_input_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize("criterion", ["random", "magnitude"])
@pytest.mark.parametrize("name", ["llama", "phi3", "opt", "neox"])
def test_a_model_without_some_sublayers_can_be_scored_and_pruned_again(name, criterion):
    once, _ = _pair(name, "first-attention")
    plan = make_plan(score(once, None, criterion), sparsity=0.3, allocation="paper")
    twice = apply_plan(once, plan)
    assert_same_outputs(twice, masked_model(once, plan))
    assert Adapter(twice).shape == plan.pruned_shape
