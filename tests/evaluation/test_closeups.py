"""Close-ups of a head and of a channel, against slow and obvious loops on tiny models."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from bipcore.errors import InputError
from bipcore.evaluation.closeups import (
    CHANNEL_CLOSE_UPS,
    HEAD_CLOSE_UPS,
    channel_close_up,
    head_close_up,
)
from bipcore.evaluation.closeups.base import silence
from bipcore.models.adapters import Adapter
from bipcore.models.loading import load_model
from bipcore.models.running import capture_inputs
from bipcore.models.streaming import is_streamed
from tests.helpers.tiny import FAMILIES, byte_tokenizer, tiny_model, tiny_tokens, word_tokenizer
from tests.helpers.tiny import one_thread as one_thread

TOKENS = tiny_tokens(1, 20)[0]
SAMPLES = tiny_tokens(5, 14, seed=3)
BLOCK, HEAD, CHANNEL = 1, 3, 7
NAMES = ("llama-gqa", "qwen2", "qwen3", "gemma2", "opt", "neox", "phi3")
TOKENIZER = word_tokenizer(94)


def _head(model: nn.Module, **more):
    return head_close_up(model, TOKENIZER, TOKENS, **{"block": BLOCK, "head": HEAD} | more)


def _channel(model: nn.Module, **more):
    chosen = {"block": BLOCK, "channel": CHANNEL} | more
    return channel_close_up(model, TOKENIZER, SAMPLES, TOKENS, **chosen)


@torch.no_grad()
def _loss(model: nn.Module, tokens=TOKENS) -> float:
    logits = model(input_ids=tokens[None], use_cache=False).logits[0]
    return float(functional.cross_entropy(logits[:-1].double(), tokens[1:]))


@torch.no_grad()
def _entering(model: nn.Module, linear: nn.Linear, tokens) -> torch.Tensor:
    found = []
    with capture_inputs({0: linear}, lambda _, x: found.append(x.clone())):
        model(input_ids=tokens, use_cache=False)
    return found[0].reshape(*tokens.shape, -1)


def _without(model: nn.Module, linear_of, columns: slice, mean: torch.Tensor | None) -> float:
    """The loss with these columns of a projection zeroed, and with what ``mean`` gives by them as
    a bias in their place."""
    masked = copy.deepcopy(model)
    linear = linear_of(Adapter(masked).blocks[BLOCK])
    with torch.no_grad():
        if mean is not None:
            bias = linear.weight[:, columns] @ mean
            bias = bias if linear.bias is None else linear.bias + bias
            linear.bias = nn.Parameter(bias)
        linear.weight[:, columns] = 0
    return _loss(masked)


def _raised(model: nn.Module, vector: torch.Tensor, gain: torch.Tensor) -> list[float]:
    """For every token what ``vector`` adds to its logit, by a loop."""
    rows = model.get_output_embeddings().weight.detach().double()
    through = vector.double() * gain.double()
    return [float((row * through).sum()) for row in rows]


def _norm_gain(name: str, norm: nn.Module) -> torch.Tensor:
    return norm.weight.detach() + (1 if name.startswith("gemma") else 0)


def _final_norm(name: str, model: nn.Module) -> nn.Module:
    paths = {"opt": "model.decoder.final_layer_norm", "neox": "gpt_neox.final_layer_norm"}
    return model.get_submodule(paths.get(name, "model.norm"))


def _check_promoted(found, raised: list[float]) -> None:
    order = sorted(range(len(raised)), key=lambda one: -raised[one])
    for tokens, expected in ((found.up, order[:10]), (found.down, order[::-1][:10])):
        assert [one.id for one in tokens] == expected
        for one in tokens:
            assert one.value == pytest.approx(raised[one.id], rel=1e-4, abs=1e-5)
            assert one.text == TOKENIZER.decode([one.id])


@pytest.mark.parametrize("name", FAMILIES)
def test_the_pattern_is_that_of_eager_attention(name):
    model = tiny_model(name)
    own = model.config._attn_implementation
    found = _head(model)
    assert model.config._attn_implementation == own
    model.set_attn_implementation("eager")
    with torch.no_grad():
        given = model(input_ids=TOKENS[None], use_cache=False, output_attentions=True)
    expected = given.attentions[BLOCK][0, HEAD]
    torch.testing.assert_close(found.pattern, expected, rtol=0, atol=1e-5)
    shares = [float(expected[place, 0]) for place in range(1, len(TOKENS))]
    assert found.first_share == pytest.approx(sum(shares) / len(shares), abs=1e-5)
    assert len(found.tokens) == len(TOKENS)


@pytest.mark.parametrize("name", NAMES)
def test_a_head_promotes_what_its_mean_output_adds_to_the_logits(name):
    model = tiny_model(name)
    block = Adapter(model).blocks[BLOCK]
    width = block.head_dim
    entering = _entering(model, block.o, TOKENS[None])[0]
    output = torch.zeros(block.o.out_features, dtype=torch.double)
    for place in range(1, len(TOKENS)):
        for column in range(HEAD * width, (HEAD + 1) * width):
            weight = block.o.weight[:, column].detach().double()
            output += weight * float(entering[place, column]) / (len(TOKENS) - 1)
    if name.startswith("gemma"):
        output *= _norm_gain(name, block.module.post_attention_layernorm)
    raised = _raised(model, output, _norm_gain(name, _final_norm(name, model)))
    _check_promoted(_head(model).promoted, raised)


@pytest.mark.parametrize("name", NAMES)
def test_silencing_a_head_is_the_model_without_its_columns_of_o(name):
    model = tiny_model(name)
    block = Adapter(model).blocks[BLOCK]
    columns = slice(HEAD * block.head_dim, (HEAD + 1) * block.head_dim)
    mean = _entering(model, block.o, TOKENS[None])[0, :, columns].mean(0)
    found, loss = _head(model).silenced, _loss(model)
    assert found.loss == pytest.approx(loss, abs=1e-5)
    by_zero = _without(model, lambda own: own.o, columns, None) - loss
    by_mean = _without(model, lambda own: own.o, columns, mean) - loss
    assert found.by_zero == pytest.approx(by_zero, abs=1e-5)
    assert found.by_mean == pytest.approx(by_mean, abs=1e-5)
    assert abs(by_zero) > 1e-4
    assert abs(by_zero - by_mean) > 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_a_channel_is_active_where_its_input_of_down_is_far_from_0(name):
    model = tiny_model(name)
    block = Adapter(model).blocks[BLOCK]
    values = _entering(model, block.down, SAMPLES)[..., CHANNEL]
    found = _channel(model)
    places = [(n, t) for n in range(len(SAMPLES)) for t in range(SAMPLES.shape[1])]
    places.sort(key=lambda place: -abs(float(values[place])))
    assert found.positions == SAMPLES.numel()
    assert found.mean == pytest.approx(float(values.mean()), abs=1e-6)
    for peak, place in zip(found.peaks, places[:10], strict=True):
        assert abs(peak.value) == pytest.approx(abs(float(values[place])), abs=1e-5)
        sample, position = peak.sample, peak.position
        assert peak.value == pytest.approx(float(values[sample, position]), abs=1e-5)
        ids = SAMPLES[sample].tolist()
        assert peak.token == TOKENIZER.decode(ids[position : position + 1])
        assert peak.before == TOKENIZER.decode(ids[max(position - 12, 0) : position])
        assert peak.after == TOKENIZER.decode(ids[position + 1 : position + 7])
    edges, counts = found.histogram.edges, found.histogram.counts
    assert len(edges) == len(counts) + 1
    assert sum(counts) == SAMPLES.numel()
    assert edges[0] == pytest.approx(float(values.min()), abs=1e-5)
    assert edges[-1] == pytest.approx(float(values.max()), abs=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_a_channel_promotes_what_its_column_of_down_adds_to_the_logits(name):
    model = tiny_model(name)
    block = Adapter(model).blocks[BLOCK]
    column = block.down.weight[:, CHANNEL].detach()
    if name.startswith("gemma"):
        column = column * _norm_gain(name, block.module.post_feedforward_layernorm)
    raised = _raised(model, column, _norm_gain(name, _final_norm(name, model)))
    _check_promoted(_channel(model).promoted, raised)


@pytest.mark.parametrize("name", NAMES)
def test_silencing_a_channel_is_the_model_without_its_column_of_down(name):
    model = tiny_model(name)
    block = Adapter(model).blocks[BLOCK]
    columns = slice(CHANNEL, CHANNEL + 1)
    mean = _entering(model, block.down, TOKENS[None])[0, :, columns].mean(0)
    found, loss = _channel(model), _loss(model)
    by_zero = _without(model, lambda own: own.down, columns, None) - loss
    by_mean = _without(model, lambda own: own.down, columns, mean) - loss
    assert found.silenced.by_zero == pytest.approx(by_zero, abs=1e-5)
    assert found.silenced.by_mean == pytest.approx(by_mean, abs=1e-5)
    assert found.tokens == len(TOKENS)


@pytest.mark.parametrize("look", [_head, _channel])
def test_the_model_is_left_as_it_was(look):
    model = tiny_model("llama-gqa").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    look(model)
    assert model.training
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not _touched(model)


@pytest.mark.parametrize("passes", range(5))
@pytest.mark.parametrize("look", [_head, _channel])
def test_after_an_exception_nothing_is_left_on_the_model(look, passes, monkeypatch):
    model = tiny_model("llama-gqa")
    own = model.config._attn_implementation
    linear, seen = Adapter(model).blocks[BLOCK].down, []
    work = linear._call_impl

    def fail(*args, **named):
        seen.append(None)
        if len(seen) > passes:
            raise RuntimeError("in the middle")
        return work(*args, **named)

    with monkeypatch.context() as patch:
        patch.setattr(linear, "_call_impl", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            look(model)
    assert model.config._attn_implementation == own
    assert not _touched(model)


def _touched(model: nn.Module) -> list[str]:
    return [
        name
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks or "forward" in module.__dict__
    ]


def test_a_projection_is_silent_within_the_block_alone():
    linear, x = nn.Linear(4, 3), torch.randn(2, 5, 4)
    kept, before = x.clone(), linear(x)
    with silence(linear, slice(1, 3), torch.tensor([0.5, -1.0])):
        inside = linear(x)
    changed = x.clone()
    changed[..., 1], changed[..., 2] = 0.5, -1.0
    torch.testing.assert_close(inside, linear(changed))
    assert torch.equal(linear(x), before)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("look", "which", "said"),
    [
        (_head, {"block": 3}, "There is no block 3; the blocks are 0 to 2."),
        (_head, {"block": -1}, "There is no block -1; the blocks are 0 to 2."),
        (_head, {"head": 8}, "Block 1 has no head 8; it has 8, counted from 0."),
        (_head, {"head": -1}, "Block 1 has no head -1; it has 8, counted from 0."),
        (_channel, {"block": 99}, "There is no block 99; the blocks are 0 to 2."),
        (_channel, {"channel": 96}, "Block 1 has no channel 96; it has 96, counted from 0."),
    ],
)
def test_what_there_is_not_is_said_in_one_sentence(look, which, said):
    with pytest.raises(InputError) as error:
        look(tiny_model("llama"), **which)
    assert str(error.value) == said


def test_a_text_of_one_token_is_refused():
    with pytest.raises(InputError, match="at least 2 tokens"):
        head_close_up(tiny_model("llama"), TOKENIZER, TOKENS[:1], BLOCK, HEAD)


def test_close_ups_come_back_from_the_store_as_they_were(store):
    head, channel = _head(tiny_model("qwen2")), _channel(tiny_model("qwen2"))
    store.get(HEAD_CLOSE_UPS, 1, lambda: head)
    store.get(CHANNEL_CLOSE_UPS, 1, lambda: channel)
    again = store.stored(HEAD_CLOSE_UPS, 1)
    assert torch.equal(again.pattern, head.pattern)
    for name in ("tokens", "first_share", "promoted", "silenced"):
        assert getattr(again, name) == getattr(head, name)
    assert store.stored(CHANNEL_CLOSE_UPS, 1) == channel


@pytest.mark.parametrize("name", ["llama-gqa", "gemma2", "opt"])
def test_of_a_model_that_is_streamed_everything_is_the_same(name, tmp_path, cache):
    whole = tiny_model(name)
    whole.save_pretrained(tmp_path / name, max_shard_size="100KB")
    byte_tokenizer().save_pretrained(tmp_path / name)
    size = sum(p.numel() * p.element_size() for p in whole.parameters())
    memory = f"{size * 4 // 4096}KiB"
    streamed, _ = load_model(str(tmp_path / name), device="cpu", memory=memory)
    assert is_streamed(streamed)
    one, other = _head(whole), _head(streamed)
    torch.testing.assert_close(other.pattern, one.pattern, rtol=0, atol=1e-5)
    for found, given in ((other, one), (_channel(streamed), _channel(whole))):
        assert [t.id for t in found.promoted.up] == [t.id for t in given.promoted.up]
        assert found.silenced.by_zero == pytest.approx(given.silenced.by_zero, abs=1e-5)
        assert found.silenced.by_mean == pytest.approx(given.silenced.by_mean, abs=1e-5)
