"""LLM-Pruner against gradients taken one weight at a time; what it leaves behind: nothing."""

import copy
import gc
from functools import cache
from unittest import mock

import pytest
import torch
import transformers as tf
from torch import nn
from torch.autograd.graph import saved_tensors_hooks

from bipcore.criteria import score
from bipcore.criteria.llm_pruner import _Sum, collect_gradients, memory
from bipcore.data.samples import CalibrationSet
from bipcore.errors import Cancelled, InputError
from bipcore.models.adapters import Adapter
from bipcore.progress import silent
from tests.helpers.reference_gradients import in_float64, pruner_scores, sample_gradients
from tests.helpers.tiny import CONFIGS, FAMILIES, GQA, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

FIELDS = ("attention", "heads", "kv_groups", "ffn")
SAMPLES = 3


def _calibration() -> CalibrationSet:
    return CalibrationSet.from_tokens(tiny_tokens(SAMPLES, 12))


def _score(model: nn.Module, *, order: int = 1, **options):
    calibration = options.pop("calibration", None) or _calibration()
    return score(model, None, "llm-pruner", calibration=calibration, order=order, **options)


@cache
def _reference(name: str):
    model = in_float64(tiny_model(name))
    return model, sample_gradients(model, tiny_tokens(SAMPLES, 12))


def _assert_equal(scores, expected, *, rtol: float) -> None:
    for block, reference in zip(scores.blocks, expected, strict=True):
        for field in FIELDS:
            actual = getattr(block, field).double()
            torch.testing.assert_close(actual, reference[field], rtol=rtol, atol=0)


def _state(model: nn.Module) -> dict:
    """Everything that scoring could leave changed."""
    return {
        "values": {name: value.clone() for name, value in model.state_dict().items()},
        "training": [module.training for module in model.modules()],
        "required": [parameter.requires_grad for parameter in model.parameters()],
        "gradients": [parameter.grad for parameter in model.parameters()],
        "objects": [id(parameter) for parameter in model.parameters()],
    }


def _assert_untouched(model: nn.Module, before: dict) -> None:
    after = _state(model)
    for key in ("training", "required", "objects"):
        assert after[key] == before[key]
    for a, b in zip(after["gradients"], before["gradients"], strict=True):
        assert a is b
    assert all(torch.equal(v, before["values"][name]) for name, v in after["values"].items())
    assert all(bool((g == 7).all()) for g in after["gradients"] if g is not None)


def _used_model(name: str) -> nn.Module:
    """A model in the middle of other work: training, partly frozen, with gradients of its own."""
    model = tiny_model(name).train()
    for index, parameter in enumerate(model.parameters()):
        if index % 3 == 0:
            parameter.requires_grad_(False)
        elif index % 3 == 1:
            parameter.grad = torch.full_like(parameter, 7.0)
    return model


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", FAMILIES)
def test_taylor_scores_equal_the_reference(name, order):
    expected = pruner_scores(*_reference(name), order)
    _assert_equal(_score(tiny_model(name), order=order), expected, rtol=1e-4)


@pytest.mark.parametrize("name", GQA)
def test_a_group_counts_what_its_heads_share_once(name):
    for block in _score(tiny_model(name)).blocks:
        of_group = block.heads.view(len(block.kv_groups), -1).sum(1)
        assert bool((block.kv_groups < of_group).all())


@pytest.mark.parametrize("order", [1, 2])
def test_gradients_of_a_bfloat16_model_are_summed_wider(order):
    model = tiny_model("llama-gqa").bfloat16()
    calibration = CalibrationSet.from_tokens(tiny_tokens(20, 12))
    expected = pruner_scores(model, sample_gradients(model, calibration.tokens), order)
    # the reference's loss is in float64, so the gradients already differ by bfloat16's rounding
    _assert_equal(_score(model, order=order, calibration=calibration), expected, rtol=2e-2)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}


def test_bfloat16_sums_do_not_lose_small_gradients():
    model = tiny_model("llama").bfloat16()
    calibration = CalibrationSet.from_tokens(tiny_tokens(1, 12).repeat(300, 1))
    once, often = (
        collect_gradients(Adapter(model), c, silent)[0][0].mean
        for c in (CalibrationSet.from_tokens(tiny_tokens(1, 12)), calibration)
    )
    torch.testing.assert_close(often, once, rtol=1e-5, atol=0)  # in bfloat16 a sum stops at 256


def test_the_order_of_the_samples_does_not_matter():
    tokens = tiny_tokens(SAMPLES, 12)
    turned = CalibrationSet.from_tokens(tokens.flip(0))
    for order in (1, 2):
        a, b = (_score(tiny_model("opt"), order=order, **o) for o in ({}, {"calibration": turned}))
        torch.testing.assert_close(a.blocks[0].ffn, b.blocks[0].ffn, rtol=1e-4, atol=0)


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", ["llama-gqa", "phi3", "neox"])
def test_the_model_comes_out_as_it_went_in(name, order):
    model = _used_model(name)
    before = _state(model)
    scores = _score(model, order=order)
    _assert_untouched(model, before)
    fresh = _score(tiny_model(name), order=order)
    for a, b in zip(scores.blocks, fresh.blocks, strict=True):
        assert all(torch.equal(getattr(a, field), getattr(b, field)) for field in FIELDS)


def test_a_model_in_training_is_scored_as_in_evaluation():
    config = CONFIGS["opt"]()
    config.dropout = 0.5
    model = tf.AutoModelForCausalLM.from_config(config).train()
    assert torch.equal(_score(model).blocks[1].ffn, _score(model.eval()).blocks[1].ffn)


@pytest.mark.parametrize("order", [1, 2])
def test_a_cancelled_run_leaves_the_model_as_it_was(order):
    model = _used_model("qwen3")
    before = _state(model)

    def cancel(fraction: float, message: str) -> None:
        if fraction > 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        _score(model, order=order, progress=cancel)
    _assert_untouched(model, before)


def test_a_failure_on_the_way_back_leaves_the_model_as_it_was(monkeypatch):
    model = _used_model("mistral")
    before = _state(model)

    def fail(*_, **__) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(torch.Tensor, "backward", fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        _score(model)
    _assert_untouched(model, before)


def test_only_the_projections_of_the_blocks_get_gradients():
    model = tiny_model("gemma2")
    adapter = Adapter(model)
    projections = {id(linear.weight) for block in adapter.blocks for linear in block.linears}
    seen = []

    def look(fraction: float, message: str) -> None:
        if fraction < 1:
            seen.append({id(p) for p in model.parameters() if p.requires_grad})

    collect_gradients(adapter, _calibration(), look)
    assert seen == [projections] * SAMPLES


def test_progress_is_reported_for_every_sample_and_reaches_the_end():
    seen = []
    _score(tiny_model("llama"), progress=lambda fraction, message: seen.append(fraction))
    assert seen == [0, 1 / 3, 2 / 3, 1]


def test_scores_carry_order_and_fingerprint():
    scores = _score(tiny_model("llama"), order=2)
    assert scores.options == {"order": 2}
    assert scores.fingerprint == _calibration().fingerprint


@pytest.mark.parametrize("order", [0, 3, -1])
def test_another_order_is_refused_before_anything_runs(order):
    model = tiny_model("llama")
    seen = []
    with pytest.raises(InputError, match=f"1 or 2, not {order}"):
        _score(model, order=order, progress=lambda fraction, message: seen.append(fraction))
    assert seen == []
    with pytest.raises(InputError, match=f"1 or 2, not {order}"):
        memory(Adapter(model).shape, 12, order=order)


def test_an_order_that_is_no_number_is_refused():
    with pytest.raises(InputError, match="of type int"):
        _score(tiny_model("llama"), order="2")


def test_scoring_without_a_calibration_set_is_refused():
    with pytest.raises(InputError, match="needs a calibration set"):
        score(tiny_model("llama"), None, "llm-pruner")


def test_samples_of_one_token_are_refused():
    calibration = CalibrationSet.from_tokens(tiny_tokens(4, 1))
    with pytest.raises(InputError, match="at least 2 tokens"):
        _score(tiny_model("llama"), calibration=calibration)


def test_samples_longer_than_the_positions_are_refused():
    calibration = CalibrationSet.from_tokens(tiny_tokens(1, 129))
    with pytest.raises(InputError, match="128 positions"):
        _score(tiny_model("llama"), calibration=calibration)


def test_an_offloaded_model_is_refused():
    model = tiny_model("llama")
    model.model.layers[1].mlp.to("meta")
    with pytest.raises(InputError, match="whole model in memory"):
        _score(model)


def test_a_sublayer_without_units_has_no_scores_and_disturbs_no_other():
    model = tiny_model("llama")
    mlp = model.model.layers[1].mlp
    for linear in (mlp.gate_proj, mlp.up_proj):
        linear.weight = nn.Parameter(linear.weight[:0].detach())
    mlp.down_proj.weight = nn.Parameter(mlp.down_proj.weight[:, :0].detach())
    mlp.down_proj.in_features = 0
    for order in (1, 2):
        blocks = _score(model, order=order).blocks
        assert blocks[1].ffn.shape == (0,)
        assert all(bool((block.heads > 0).all()) for block in blocks)


@pytest.mark.parametrize("name", FAMILIES)
def test_memory_covers_gradients_and_what_autograd_keeps(name):
    model = tiny_model(name)
    shape = Adapter(model).shape
    weights = sum(
        linear.weight.numel() for block in Adapter(model).blocks for linear in block.linears
    )
    kept = memory(shape, 24) - 4 * weights
    measured = _kept_by_autograd(model, 24)
    for size, bytes_a_weight in ((4, (4, 12)), (2, (6, 10))):
        for order, each in zip((1, 2), bytes_a_weight, strict=True):
            assert memory(shape, 24, element_size=size, order=order) - kept == each * weights
    unfused = 2.0 if name == "gemma2" else 1.0  # its attention matrices are not counted
    assert measured <= unfused * kept
    assert kept <= 2.5 * measured


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_memory_is_that_of_the_sums_and_of_one_gradient_in_the_models_type(dtype, order):
    """What is alive of the weights' shapes when all of a sample's gradients are there."""
    model = tiny_model("mistral").to(dtype)
    adapter = Adapter(model)
    shapes = [linear.weight for block in adapter.blocks for linear in block.linears]
    weights, seen = sum(weight.numel() for weight in shapes), []
    take = _Sum.take

    def look(each, scale) -> None:
        if not seen:
            held = [w.grad for w in shapes]
            sums = [o for o in gc.get_objects() if isinstance(o, _Sum)]
            held += [t for one in sums for t in (one.total, one.squares)]
            held = [t for t in held if t is not None]
            seen.append(sum(t.numel() * t.element_size() for t in held))
        take(each, scale)

    with mock.patch.object(_Sum, "take", look):
        _score(model, order=order)
    size, length = shapes[0].element_size(), 12
    activations = memory(adapter.shape, length) - 4 * weights
    said = memory(adapter.shape, length, element_size=size, order=order) - activations
    assert said == seen[0]


def test_small_gradients_of_a_float16_model_are_not_lost():
    """As near to those in float32 as float16 can be, where without a scale most would be 0."""
    wide = tiny_model("llama")
    with torch.no_grad():
        wide.lm_head.weight /= 4096  # the gradients become as small as those of a large model
    half = copy.deepcopy(wide).half()
    expected, found = (_score(model) for model in (wide, half))
    for a, b in zip(expected.blocks, found.blocks, strict=True):
        torch.testing.assert_close(b.ffn, a.ffn, rtol=0.05, atol=0)


def _kept_by_autograd(model: nn.Module, length: int) -> int:
    """Bytes that the forward pass of one sample leaves for the way back, and the logits thrice."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for block in Adapter(model).blocks:
        for linear in block.linears:
            linear.weight.requires_grad_(True)
    with saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(tiny_tokens(1, length), use_cache=False).logits
    return sum(storage.nbytes() for storage in kept.values()) + 3 * logits.nbytes
