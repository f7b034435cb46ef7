"""Curves of whole models: they rise, equal the refit, keep the order, and are stored whole."""

from dataclasses import replace

import pytest
import torch

from bipcore.criteria import CRITERIA, score
from bipcore.criteria.curves import CURVES, collect_curves, relative
from bipcore.criteria.elimination import held_back
from bipcore.criteria.fisher import collect_fisher
from bipcore.criteria.moments import SecondMoments, collect_second_moments
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.models.adapters import Adapter
from bipcore.progress import silent
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.refit import refit
from bipcore.store.runs import RunStore
from tests.helpers.pairs import in_turn
from tests.helpers.tiny import FAMILIES, GQA, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

CALIBRATION = CalibrationSet.from_tokens(tiny_tokens(8, 24))
WITH_CURVES = [name for name, criterion in CRITERIA.items() if criterion.curves is not None]


def _curves(name: str, criterion: str = "obs", **given):
    own = CRITERIA[criterion]
    how = own.curve_settings(own.resolve({}))
    return collect_curves(Adapter(tiny_model(name)), CALIBRATION, how, progress=silent, **given)


@pytest.mark.parametrize(("name", "criterion"), in_turn(FAMILIES, WITH_CURVES, each=1))
def test_every_curve_takes_each_unit_once_and_never_falls(name, criterion):
    curves = _curves(name, criterion)
    for block, shape in zip(curves.blocks, curves.shape.blocks, strict=True):
        assert block.heads.order.numel() == shape.heads
        assert block.kv_groups.order.numel() == shape.kv_heads
        assert sorted(block.ffn.order[:, 0].tolist()) == list(range(shape.channels))
        for curve in vars(block).values():
            assert sorted(curve.order[:, 0].tolist()) == list(range(len(curve.order)))
            assert bool((curve.errors.diff() >= 0).all())
            assert float(relative(curve.errors)[-1]) == 1
        torch.testing.assert_close(block.heads.errors[-1], block.kv_groups.errors[-1])


@pytest.mark.parametrize("name", ["opt", "llama-gqa"])
def test_a_curve_is_the_error_of_the_refit_at_every_width(name):
    model = tiny_model(name)
    moments = SecondMoments(collect_second_moments(model, CALIBRATION).__getitem__)
    curves, ridge = _curves(name, moments=moments), CRITERIA["obs"].curves.ridge
    for index, block in enumerate(Adapter(model).blocks):
        weight, curve = block.weights().down.double(), curves.blocks[index].ffn
        given = moments.of(index, "down")
        loud = (held_back(given, 1) - given).diagonal()  # which the ridges are shares of
        for gone in (1, 10, 48, 80, 95):
            kept = curve.order[gone:, 0].sort().values
            change = weight.clone()
            same = torch.diag((ridge * loud).sqrt())  # the ridge as if it were in the moments
            change[:, kept] -= refit(weight, given.double() + same**2, kept, ridge=0.0)
            error = float(torch.trace(change @ held_back(given, ridge) @ change.T))
            assert float(curve.errors[gone]) == pytest.approx(error, rel=1e-5)


@pytest.mark.parametrize("criterion", WITH_CURVES)
def test_scores_keep_the_order_in_which_channels_heads_and_groups_went(criterion):
    model = tiny_model("llama-gqa")
    curves = _curves("llama-gqa", criterion)
    scores = score(model, None, criterion, calibration=CALIBRATION, curves=curves)
    for block, curve in zip(scores.blocks, curves.blocks, strict=True):
        assert block.ffn.argsort().tolist() == curve.ffn.order[:, 0].tolist()
        assert block.kv_groups.argsort().tolist() == curve.kv_groups.order[:, 0].tolist()
        by_group = block.heads.view(len(block.kv_groups), -1)
        assert torch.equal(by_group.argsort(1), curve.heads.order.T)


def test_a_score_is_the_rise_of_the_error_where_that_is_more_than_all_before():
    curves = _curves("llama")
    scores = score(tiny_model("llama"), None, "obs", calibration=CALIBRATION, curves=curves)
    curve = curves.blocks[1].ffn
    rises, found = curve.errors.diff(), scores.blocks[1].ffn.double()[curve.order[:, 0]]
    highest = rises.cummax(0).values
    assert bool((found >= highest * (1 - 1e-6)).all())
    torch.testing.assert_close(found, highest, rtol=2e-3, atol=0)


@pytest.mark.parametrize("name", GQA[:1])
def test_a_plan_by_obs_cuts_what_the_curve_cut_first(name):
    curves = _curves(name)
    scores = score(tiny_model(name), None, "obs", calibration=CALIBRATION, curves=curves)
    plan = make_plan(scores, sparsity=0.4, allocation="paper", unit="query-head")
    for block, curve in zip(plan.blocks, curves.blocks, strict=True):
        gone = set(curve.ffn.order[: len(curve.ffn.order) - len(block.channels), 0].tolist())
        assert gone == set(range(len(curve.ffn.order))) - set(block.channels)
        assert 0 < len(block.heads) < curve.heads.order.numel()


def test_curves_from_given_moments_are_those_of_a_pass_of_their_own():
    moments = SecondMoments(collect_second_moments(tiny_model("qwen3"), CALIBRATION).__getitem__)
    for given, own in zip(
        _curves("qwen3", moments=moments).blocks, _curves("qwen3").blocks, strict=True
    ):
        assert torch.equal(given.ffn.order, own.ffn.order)
        torch.testing.assert_close(given.heads.errors, own.heads.errors, rtol=1e-5, atol=0)


def test_curves_come_back_from_the_store_as_they_were(store):
    made = _curves("llama-gqa", "obs-fisher")
    store.get(CURVES, {"n": 1}, lambda: made)
    found = RunStore(store.root).get(CURVES, {"n": 1}, dict)
    assert (found.settings, found.shape) == (made.settings, made.shape)
    for one, other in zip(found.blocks, made.blocks, strict=True):
        for curve, same in zip(vars(one).values(), vars(other).values(), strict=True):
            assert torch.equal(curve.order, same.order)
            assert torch.equal(curve.errors, same.errors)


def test_the_fisher_matrix_predicts_how_the_loss_rises():
    """Noise on the output of one projection: ½·tr(M·C) a token, against the loss measured."""
    model, fishers = tiny_model("llama"), None
    adapter = Adapter(model)
    fishers = collect_fisher(adapter, CalibrationSet.from_tokens(tiny_tokens(64, 24)), silent)
    tokens, down = tiny_tokens(64, 24), adapter.blocks[1].down
    size, generator = 0.02, torch.Generator().manual_seed(0)

    def noisy(module, inputs, output):
        noise = size * torch.randn(output.shape, generator=generator)
        noise[:, 0] = 0
        return output + noise

    with torch.no_grad():
        expected = model(tokens).logits.log_softmax(-1)
        handle = down.register_forward_hook(noisy)
        found = model(tokens).logits.log_softmax(-1)
        handle.remove()
    measured = float((expected.exp() * (expected - found)).sum(-1)[:, 1:].mean())
    predicted = 0.5 * size**2 * float(fishers[1]["down"].diagonal().sum())
    assert predicted == pytest.approx(measured, rel=0.15)


def test_a_ridge_that_is_none_is_refused():
    with pytest.raises(InputError, match="The ridge is a number from 1e-6 to 1e6, not 0"):
        score(tiny_model("llama"), None, "obs", calibration=CALIBRATION, ridge=0.0)


def test_curves_of_another_model_are_refused():
    curves = _curves("llama-gqa")
    with pytest.raises(InputError, match="those of a model with other widths"):
        score(tiny_model("llama"), None, "obs", calibration=CALIBRATION, curves=curves)


def test_without_a_calibration_set_there_are_no_curves():
    with pytest.raises(InputError, match="'obs' needs a calibration set"):
        score(tiny_model("llama"), None, "obs")


def test_the_fisher_matrix_is_that_of_the_first_tokens_in_whole_samples():
    adapter, own = Adapter(tiny_model("llama")), CRITERIA["obs-fisher"].curves
    first = CALIBRATION.only(slice(2))
    moments = SecondMoments(collect_second_moments(adapter.model, CALIBRATION).__getitem__)
    some = {"moments": moments, "progress": silent}
    found = collect_curves(adapter, CALIBRATION, replace(own, tokens=71), **some).blocks[0].ffn
    expected = collect_curves(adapter, first, own, **some).blocks[0].ffn
    every = collect_curves(adapter, CALIBRATION, own, **some).blocks[0].ffn
    assert torch.equal(found.errors, expected.errors)
    assert not torch.equal(found.errors, every.errors)
