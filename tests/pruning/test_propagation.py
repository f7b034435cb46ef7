"""Scores on the output of the pruned blocks, against whole masked models run again and again."""

import pytest
import torch
from torch import Tensor, nn

from bipcore.criteria import Scores, score
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.errors import Cancelled, InputError
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.propagation import score_pruned
from bipcore.pruning.slicing import apply_plan, masked_model
from bipcore.specs import PlanSpec
from tests.helpers.pairs import in_turn
from tests.helpers.pruning import UNITS, assert_same_outputs
from tests.helpers.reference import reference_blocks, reference_scores
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

TOKENS = tiny_tokens(5, 20)
CALIBRATION = CalibrationSet.from_tokens(TOKENS)
WHOLE = BlockPlan(tuple(range(8)), tuple(range(96)))
UNIT_CASES = [(name, unit) for name in FAMILIES for unit in UNITS[name]]
NAMES = ("attention", "heads", "kv_groups", "ffn")


def _choice(**settings) -> dict:
    return PlanSpec(**({"sparsity": 0.4} | settings)).choice


def _propagated(model: nn.Module, criterion: str = "llm-bip", **settings) -> Scores:
    options = {name: settings.pop(name) for name in ("batch_size", "progress") if name in settings}
    choice = _choice(**settings)
    return score_pruned(model, CALIBRATION, criterion, choice=choice, **options)


def _dense(model: nn.Module, criterion: str = "llm-bip") -> Scores:
    return score(model, collect_statistics(model, CALIBRATION), criterion)


def _naive(model: nn.Module, criterion: str, plan: PruningPlan) -> list[dict[str, Tensor]]:
    """For every block: mask the blocks before it, run the whole model, score the block."""
    found = []
    for index in range(3):
        before = (*plan.blocks[:index], *[WHOLE] * (3 - index))
        masked = masked_model(model, PruningPlan(plan.shape, before))
        found.append(reference_scores(reference_blocks(masked, TOKENS)[index], criterion))
    return found


def _same(first: Scores, second: Scores) -> bool:
    pairs = zip(first.to_tensors().values(), second.to_tensors().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


@pytest.mark.parametrize(("case", "criterion"), in_turn(UNIT_CASES, ("llm-bip", "wanda"), each=1))
def test_every_block_is_scored_behind_the_pruned_blocks(case, criterion):
    name, unit = case
    model = tiny_model(name)
    scores = _propagated(model, criterion, unit=unit, sparsity=0.5)
    plan = make_plan(scores, **_choice(unit=unit, sparsity=0.5))
    assert all(len(b.heads) < 8 and len(b.channels) < 96 for b in plan.blocks)
    for found, expected in zip(scores.blocks, _naive(model, criterion, plan), strict=True):
        for field in NAMES:
            values = getattr(found, field).double()
            torch.testing.assert_close(values, expected[field], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"allocation": "paper"},
        {"protect_first": 1, "sparsity": 0.3},
        {"protect_last": 1, "round_to": 8, "sparsity": 0.3},
        {"unit": "none", "sparsity": 0.25},
    ],
    ids=str,
)
def test_what_is_cut_while_scoring_is_what_the_plan_cuts(settings):
    model = tiny_model("qwen2")
    scores = _propagated(model, **settings)
    plan = make_plan(scores, **_choice(**settings))
    for found, expected in zip(scores.blocks, _naive(model, "llm-bip", plan), strict=True):
        torch.testing.assert_close(found.ffn.double(), expected["ffn"], rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_first_block_scores_as_in_the_dense_model_and_the_others_do_not(name):
    model = tiny_model(name)
    dense, pruned = _dense(model), _propagated(model)
    for field in NAMES:
        first, same = (getattr(scores.blocks[0], field) for scores in (pruned, dense))
        torch.testing.assert_close(first, same, rtol=1e-5, atol=0)
        assert not torch.allclose(
            getattr(pruned.blocks[2], field), getattr(dense.blocks[2], field), rtol=1e-2
        )


@pytest.mark.parametrize(("name", "allocation"), in_turn(FAMILIES, ("uniform", "paper"), each=1))
def test_at_sparsity_0_the_scores_are_the_dense_ones(name, allocation):
    model = tiny_model(name)
    for found, expected in zip(
        _propagated(model, sparsity=0, allocation=allocation).blocks,
        _dense(model).blocks,
        strict=True,
    ):
        for field in NAMES:
            torch.testing.assert_close(
                getattr(found, field), getattr(expected, field), rtol=1e-4, atol=1e-7
            )


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_the_batch_size_does_not_count(batch_size):
    model = tiny_model("llama-gqa")
    scores = _propagated(model, batch_size=batch_size)
    for found, expected in zip(scores.blocks, _propagated(model).blocks, strict=True):
        torch.testing.assert_close(found.ffn, expected.ffn, rtol=1e-4, atol=1e-7)
        torch.testing.assert_close(found.heads, expected.heads, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("name", ["llama-gqa", "phi3", "opt", "neox"])
def test_the_plan_of_the_scores_can_be_applied(name):
    model = tiny_model(name)
    plan = make_plan(_propagated(model), **_choice())
    assert plan.realised == pytest.approx(0.4, abs=0.02)
    assert_same_outputs(apply_plan(model, plan), masked_model(model, plan))


def test_the_scores_say_what_they_are_of():
    model = tiny_model("mistral")
    scores, dense = _propagated(model, "wanda-sp"), _dense(model, "wanda-sp")
    assert (scores.criterion, scores.shape) == ("wanda-sp", dense.shape)
    assert (scores.fingerprint, dict(scores.options)) == (dense.fingerprint, dict(dense.options))


def _state(model: nn.Module) -> list:
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks)) for m in model.modules()]
    forwards = [module.__dict__.get("forward") for module in model.modules()]
    modes = [module.training for module in model.modules()]
    places = [parameter.data_ptr() for parameter in model.parameters()]
    return [hooks, forwards, modes, places, model.config.to_dict()]


@pytest.mark.parametrize(("name", "training"), in_turn(FAMILIES, (False, True), each=1))
def test_the_model_is_not_touched(name, training):
    model = tiny_model(name).train(training)
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, _state(model)
    found = _propagated(model)
    assert _state(model) == state
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert _same(found, _propagated(tiny_model(name)))
    assert not any(tensor.requires_grad for tensor in found.to_tensors().values())


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_cancelled_run_leaves_the_model_as_it_was(block):
    model, calls = tiny_model("phi3"), []
    state, logits = _state(model), model(TOKENS).logits

    def progress(fraction: float, message: str) -> None:
        calls.append(fraction)
        if len(calls) > block:
            raise Cancelled

    with pytest.raises(Cancelled):
        _propagated(model, progress=progress)
    assert calls == pytest.approx([i / 3 for i in range(block + 1)])
    assert _state(model) == state
    assert torch.equal(model(TOKENS).logits, logits)


@pytest.mark.parametrize(
    ("criterion", "settings", "says"),
    [
        ("random", {}, "'random' does not read activations"),
        ("magnitude", {}, "does not read activations"),
        ("llm-pruner", {}, "does not read activations"),
        ("blockpruner", {}, "does not read activations"),
        ("flap", {}, "allocation 'global'"),
        ("llm-bip", {"allocation": "global"}, "allocation 'global'"),
        ("llm-bip", {"allocation": "sublayer"}, "does not rank whole sublayers"),
        ("llm-bip", {"sparsity": 0.999}, "at most"),
        ("llm-bip", {"unit": "head"}, "query-head or kv-group"),
        ("llm-bip", {"batch_size": 0}, "batch size"),
        ("no-such-criterion", {}, "llm-bip"),
    ],
)
def test_what_cannot_be_propagated_is_refused_before_anything_runs(criterion, settings, says):
    model, ran = tiny_model("llama-gqa"), []
    model.get_input_embeddings().register_forward_pre_hook(lambda *given: ran.append(1))
    with pytest.raises(InputError, match=says) as caught:
        _propagated(model, criterion, **settings)
    assert "\n" not in str(caught.value)
    assert ran == []


def test_samples_longer_than_the_model_reads_are_refused():
    long = CalibrationSet.from_tokens(tiny_tokens(1, 129))
    with pytest.raises(InputError, match="128 positions"):
        score_pruned(tiny_model("llama"), long, "llm-bip", choice=_choice())


def test_flap_can_be_propagated_with_widths_that_are_known_ahead():
    model = tiny_model("llama")
    scores = _propagated(model, "flap", allocation="uniform")
    plan = make_plan(scores, **_choice(allocation="uniform"))
    for found, expected in zip(scores.blocks, _naive(model, "flap", plan), strict=True):
        torch.testing.assert_close(found.ffn.double(), expected["ffn"], rtol=1e-3, atol=1e-6)


def test_a_block_without_attention_is_walked_through():
    gone = PruningPlan(
        _dense(tiny_model("llama")).shape, (WHOLE, BlockPlan((), WHOLE.channels), WHOLE)
    )
    once = apply_plan(tiny_model("llama"), gone)
    scores = _propagated(once, sparsity=0.2)
    assert [len(block.heads) for block in scores.blocks] == [8, 0, 8]
    assert make_plan(scores, **_choice(sparsity=0.2)).realised == pytest.approx(0.2, abs=0.02)
