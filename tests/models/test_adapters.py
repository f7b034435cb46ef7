"""Blocks of every family: sizes, weights taken apart, counts of parameters and MACs."""

import pytest
import torch
import transformers as tf
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bipcore.errors import InputError
from bipcore.models.adapters import SITES, Adapter
from bipcore.models.families import FAMILIES as SUPPORTED
from bipcore.models.shapes import BlockShape, ModelShape
from tests.helpers.reference import reference_blocks
from tests.helpers.tiny import CONFIGS, FAMILIES, LAYERS, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

KV_HEADS = {
    "llama": 8,
    "llama-gqa": 2,
    "mistral": 4,
    "qwen2": 4,
    "qwen3": 2,
    "gemma2": 2,
    "gemma3": 2,
    "phi3": 4,
    "phi3-mha": 8,
    "opt": 8,
    "neox": 8,
    "neox-sequential": 8,
}
HEAD_DIM = {"qwen3": 16, "gemma2": 12, "gemma3": 12}


def _parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _llama(**sizes) -> nn.Module:
    with torch.device("meta"):
        return tf.LlamaForCausalLM(tf.LlamaConfig(**sizes))


def _llama_13b() -> nn.Module:
    return _llama(
        hidden_size=5120, intermediate_size=13824, num_hidden_layers=40, num_attention_heads=40
    )


@pytest.mark.parametrize("name", FAMILIES)
def test_shape_has_the_widths_of_the_configuration(name):
    shape = Adapter(tiny_model(name)).shape
    assert shape.blocks == (BlockShape(8, KV_HEADS[name], 96),) * LAYERS
    assert (shape.hidden, shape.head_dim) == (64, HEAD_DIM.get(name, 8))
    assert shape.max_positions == 128


@pytest.mark.parametrize("name", FAMILIES)
def test_shape_counts_the_parameters_of_the_model(name):
    model = tiny_model(name)
    assert Adapter(model).shape.parameters == _parameters(model)


@pytest.mark.parametrize("name", FAMILIES)
def test_shape_counts_the_parameters_of_the_blocks(name):
    adapter = Adapter(tiny_model(name))
    assert adapter.shape.block_parameters == sum(_parameters(b.module) for b in adapter.blocks)


@pytest.mark.parametrize("name", FAMILIES)
def test_norms_and_output_biases_belong_to_no_unit(name):
    adapter = Adapter(tiny_model(name))
    outputs = ("o_proj.bias", "out_proj.bias", "dense.bias", "down_proj.bias", "fc2.bias")
    fixed = sum(
        parameter.numel()
        for key, parameter in adapter.blocks[0].module.named_parameters()
        if "norm" in key or key.endswith((*outputs, "dense_4h_to_h.bias"))
    )
    assert adapter.shape.block_fixed == fixed


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", [tf.LlamaConfig, tf.GPTNeoXConfig])
def test_a_tied_head_counts_once_in_parameters_and_always_in_macs(kind, tied):
    config = kind(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=4,
        tie_word_embeddings=tied,
    )
    model = tf.AutoModelForCausalLM.from_config(config)
    shape = Adapter(model).shape
    assert shape.parameters == _parameters(model)
    assert shape.other_weights == 50 * 32


@pytest.mark.parametrize("name", FAMILIES)
def test_macs_equal_those_that_torch_counts(name):
    model = tiny_model(name)
    model.set_attn_implementation("eager")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(tiny_tokens(1, 32), use_cache=False)
    counted = counter.get_total_flops() / 2
    assert Adapter(model).shape.macs(32) == pytest.approx(counted, rel=1e-3)


def test_llama_7b_has_the_published_parameters_and_macs():
    shape = Adapter(_llama()).shape
    assert shape.parameters == pytest.approx(6.738e9, rel=1e-3)
    assert shape.macs(512) == pytest.approx(3452e9, rel=1e-3)


def test_llama_13b_has_its_parameters_and_macs():
    model = _llama_13b()
    shape = Adapter(model).shape
    linear = 40 * (4 * 5120**2 + 3 * 5120 * 13824) + 5120 * 32000
    assert shape.parameters == pytest.approx(13.016e9, rel=1e-3)
    assert shape.parameters == _parameters(model)
    assert shape.macs(512) == 512 * linear + 40 * 2 * 512**2 * 5120


@pytest.mark.parametrize("name", FAMILIES)
def test_weights_are_the_slices_that_the_modules_hold(name):
    model = tiny_model(name)
    references = reference_blocks(model, tiny_tokens(1, 4))
    for block, reference in zip(Adapter(model).blocks, references, strict=True):
        weights = block.weights()
        for field in ("q", "k", "v", "o", "up", "down"):
            assert torch.equal(getattr(weights, field).double(), getattr(reference, field)), field
        sizes = (weights.heads, weights.kv_heads, weights.head_dim)
        assert sizes == (reference.heads, reference.kv_heads, reference.width)


@pytest.mark.parametrize("name", FAMILIES)
def test_gate_is_the_half_that_is_activated_or_none(name):
    model = tiny_model(name)
    weights = Adapter(model).blocks[1].weights()
    expected = reference_blocks(model, tiny_tokens(1, 4))[1].gate
    if expected is None:
        assert weights.gate is None
    else:
        assert torch.equal(weights.gate.double(), expected)


@pytest.mark.parametrize("name", FAMILIES)
def test_only_a_parallel_block_does_not_read_the_attention(name):
    weights = Adapter(tiny_model(name)).blocks[0].weights()
    assert weights.ffn_reads_attention == (name != "neox")


@pytest.mark.parametrize("name", FAMILIES)
def test_the_gain_is_that_of_the_norm_whose_output_the_ffn_reads(name):
    model = tiny_model(name)
    references = reference_blocks(model, tiny_tokens(1, 4))
    for block, reference in zip(Adapter(model).blocks, references, strict=True):
        gain = block.weights().ffn_norm_gain
        assert gain.shape == (64,)
        torch.testing.assert_close(gain.double(), reference.gain, rtol=1e-4, atol=0)


def test_the_gain_of_a_model_that_normalises_after_its_attention_is_that_of_the_norm_there():
    config = CONFIGS["opt"]()
    config.do_layer_norm_before = False
    model = tf.AutoModelForCausalLM.from_config(config).eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    gain = Adapter(model).blocks[1].weights().ffn_norm_gain
    expected = reference_blocks(model, tiny_tokens(1, 4))[1].gain
    torch.testing.assert_close(gain.double(), expected, rtol=1e-4, atol=0)


def test_a_norm_without_a_weight_has_gain_one():
    config = CONFIGS["opt"]()
    config.layer_norm_elementwise_affine = False
    weights = Adapter(tf.AutoModelForCausalLM.from_config(config)).blocks[0].weights()
    assert torch.equal(weights.ffn_norm_gain, torch.ones(64))


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_laid_out_like_the_weights_is_taken_apart_like_them(name):
    block = Adapter(tiny_model(name)).blocks[0]
    doubled = block.split([2 * linear.weight.detach() for linear in block.linears])
    weights = block.weights()
    for field in ("q", "k", "v", "o", "gate", "up", "down"):
        if getattr(weights, field) is None:
            continue
        assert torch.equal(getattr(doubled, field), 2 * getattr(weights, field)), field
    held = sum(linear.weight.numel() for linear in block.linears)
    parts = [weights.q, weights.k, weights.v, weights.o, weights.gate, weights.up, weights.down]
    assert sum(part.numel() for part in parts if part is not None) == held


@pytest.mark.parametrize("name", FAMILIES)
def test_sites_are_inputs_of_the_widths_they_are_named_for(name):
    block = Adapter(tiny_model(name)).blocks[0]
    width = 8 * HEAD_DIM.get(name, 8)
    assert tuple(block.sites) == SITES
    assert [linear.in_features for linear in block.sites.values()] == [64, width, 64, 96]


def test_weights_are_float32_whatever_the_model_is():
    for block in Adapter(tiny_model("phi3").bfloat16()).blocks:
        weights = block.weights()
        assert {weights.q.dtype, weights.v.dtype, weights.up.dtype} == {torch.float32}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_query_head_reads_the_key_value_head_of_its_group(name):
    block = Adapter(tiny_model(name)).blocks[0]
    group = 8 // KV_HEADS[name]
    assert [block.kv_heads_of([head]) for head in range(8)] == [[h // group] for h in range(8)]
    assert block.kv_heads_of(range(8)) == list(range(KV_HEADS[name]))
    assert block.kv_heads_of([]) == []


@pytest.mark.parametrize(
    "config",
    [
        tf.MixtralConfig(
            vocab_size=50,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=1,
            num_attention_heads=4,
            num_key_value_heads=2,
        ),
        tf.GPT2Config(vocab_size=50, n_embd=32, n_layer=1, n_head=4),
    ],
    ids=["mixtral", "gpt2"],
)
def test_other_architectures_are_refused_with_the_supported_ones(config):
    model = tf.AutoModelForCausalLM.from_config(config)
    with pytest.raises(InputError) as caught:
        Adapter(model)
    message = str(caught.value)
    assert repr(config.model_type) in message
    assert all(name in message for name in SUPPORTED)
    assert message.count("\n") == 0


def test_a_projection_that_is_no_linear_layer_is_refused():
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj = nn.Bilinear(1, 1, 1)
    with pytest.raises(InputError, match=r"Bilinear.*unquantised"):
        Adapter(model)


def test_a_projection_of_integer_weights_is_refused():
    model = tiny_model("llama")
    weight = torch.zeros(96, 64, dtype=torch.int8)
    model.model.layers[1].mlp.up_proj.weight = nn.Parameter(weight, requires_grad=False)
    with pytest.raises(InputError, match="quantised"):
        Adapter(model)


def test_a_model_without_a_language_model_head_is_refused():
    with pytest.raises(InputError):
        Adapter(tiny_model("llama").model)


@pytest.mark.parametrize("name", ["llama", "phi3", "opt"])
def test_a_shape_survives_plain_types(name):
    shape = Adapter(tiny_model(name)).shape
    assert ModelShape.from_dict(shape.to_dict()) == shape


@pytest.mark.parametrize("field", ["hidden", "blocks", "head_cost", "other_weights"])
def test_a_shape_without_a_field_is_refused(field):
    data = Adapter(tiny_model("llama")).shape.to_dict()
    del data[field]
    with pytest.raises(InputError, match=field):
        ModelShape.from_dict(data)


def test_macs_grow_linearly_but_for_the_attention_products():
    shape = Adapter(tiny_model("llama")).shape
    quadratic = LAYERS * 2 * 64
    assert shape.macs(20) == 2 * shape.macs(10) + quadratic * (400 - 200)
