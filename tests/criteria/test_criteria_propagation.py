"""Importance propagation against the derivative of the network of absolute weights."""

from functools import cache

import pytest
import torch
import transformers as tf
from torch import nn

from bipcore.criteria import score
from bipcore.criteria.importance_propagation import send_back
from bipcore.models.adapters import Adapter
from tests.helpers.reference_gradients import propagated_scores
from tests.helpers.tiny import CONFIGS, FAMILIES, GQA, tiny_model
from tests.helpers.tiny import one_thread as one_thread

FIELDS = ("attention", "heads", "kv_groups", "ffn")


def _score(model: nn.Module, **options):
    return score(model, None, "importance-propagation", **options)


@cache
def _scores(name: str):
    return _score(tiny_model(name))


@pytest.mark.parametrize("name", FAMILIES)
def test_scores_equal_the_reference(name):
    expected = propagated_scores(tiny_model(name))
    for block, reference in zip(_scores(name).blocks, expected, strict=True):
        for field in FIELDS:
            actual = getattr(block, field).double()
            torch.testing.assert_close(actual, reference[field], rtol=1e-4, atol=0)


@pytest.mark.parametrize("name", GQA)
def test_a_group_is_the_sum_of_its_heads(name):
    for block in _scores(name).blocks:
        of_group = block.heads.view(len(block.kv_groups), -1).sum(1)
        torch.testing.assert_close(block.kv_groups, of_group)


def test_queries_and_keys_carry_nothing():
    model = tiny_model("qwen2")
    before = _score(model)
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(3)
            layer.self_attn.k_proj.weight.mul_(3)
    after = _score(model)
    for a, b in zip(before.blocks, after.blocks, strict=True):
        assert all(torch.equal(getattr(a, field), getattr(b, field)) for field in FIELDS)


def test_a_channel_that_only_writes_where_later_blocks_read_outranks_one_that_does_not():
    model = tiny_model("llama")
    with torch.no_grad():
        for layer in model.model.layers[1:]:
            for linear in (layer.self_attn.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
                linear.weight[:, 7] = 0  # unit 7 is read by nothing but the residual
        down = model.model.layers[0].mlp.down_proj.weight
        down[:, :2] = 0
        down[7, 0] = down[8, 1] = 1.0
    ffn = _score(model).blocks[0].ffn
    assert ffn[1] > 100 * ffn[0] > 0


def test_the_last_block_scores_what_it_writes():
    block = _scores("llama").blocks[-1]
    written = tiny_model("llama").model.layers[-1].mlp.down_proj.weight.abs().sum(0)
    torch.testing.assert_close(block.ffn, written)


def test_the_importance_of_a_blocks_input_has_mean_one():
    for name in FAMILIES:
        weights = Adapter(tiny_model(name)).blocks[0].weights()
        _, importance = send_back(weights, torch.ones(64))
        assert importance.mean().item() == pytest.approx(1, rel=1e-5)
        assert importance.shape == (64,)


def test_a_factor_of_the_importance_changes_scores_by_that_factor_alone():
    weights = Adapter(tiny_model("gemma2")).blocks[0].weights()
    start = torch.rand(64, generator=torch.Generator().manual_seed(0))
    (once, r), (scaled, again) = (send_back(weights, x) for x in (start, 1000 * start))
    torch.testing.assert_close(scaled.ffn, 1000 * once.ffn)
    torch.testing.assert_close(scaled.query, 1000 * once.query)
    torch.testing.assert_close(again, r)


@pytest.mark.parametrize("name", ["llama-gqa", "neox"])
def test_scores_of_eighty_blocks_are_finite(name):
    config = CONFIGS[name]()
    config.num_hidden_layers = 80
    model = tf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(50)
    for block in _score(model).blocks:
        for field in FIELDS:
            value = getattr(block, field)
            assert bool(value.isfinite().all())
            assert bool((value > 0).all())


def test_sublayers_without_units_pass_importance_on():
    model = tiny_model("mistral")
    block = Adapter(model).blocks[1]
    for linear, rows in [(linear, True) for linear in (*block.qkv, *block.ffn_in)] + [
        (block.o, False),
        (block.down, False),
    ]:
        weight = linear.weight.detach()
        linear.weight = nn.Parameter(weight[:0] if rows else weight[:, :0])
        linear.out_features, linear.in_features = linear.weight.shape
    before, empty, _ = _score(model).blocks
    assert empty.ffn.shape == empty.attention.shape == (0,)
    assert bool((before.ffn > 0).all())


def test_neither_statistics_nor_calibration_are_needed():
    scores = _scores("phi3")
    assert scores.fingerprint is None
    assert scores.options == {}


def test_a_bfloat16_model_is_scored_like_the_same_weights_in_float32():
    model = tiny_model("phi3").bfloat16()
    rounded = _score(model).blocks
    for a, b in zip(rounded, _score(model.float()).blocks, strict=True):
        torch.testing.assert_close(a.heads, b.heads, rtol=1e-6, atol=0)


def test_progress_runs_from_the_last_block_to_the_first():
    seen = []
    _score(tiny_model("llama"), progress=lambda fraction, message: seen.append(fraction))
    assert seen == sorted(seen)
    assert len(seen) >= 3
    assert 0 <= seen[0] <= seen[-1] <= 1
