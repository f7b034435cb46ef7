"""The search of BlockPruner against an exhaustive one, and what it leaves behind: nothing."""

import copy
import json
import math
from contextlib import nullcontext
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from bipcore.criteria import Scores, score
from bipcore.criteria.greedy_search import SearchResult, memory, search
from bipcore.data.samples import CalibrationSet
from bipcore.errors import Cancelled, InputError
from bipcore.evaluation.metrics import perplexity
from bipcore.models.adapters import Adapter
from bipcore.models.running import capture_inputs, enter_blocks, leave_blocks
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.tiny import FAMILIES, LAYERS, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

TOKENS = 100  # 4 whole samples of 24
ALL = [(block, sublayer) for block in range(LAYERS) for sublayer in ("attention", "ffn")]


def _calibration() -> CalibrationSet:
    return CalibrationSet.from_tokens(tiny_tokens())


def _search(model: nn.Module, **options) -> SearchResult:
    return search(Adapter(model), _calibration(), **{"tokens": TOKENS, "until": 1.0} | options)


@cache
def _full_search(name: str) -> SearchResult:
    return _search(tiny_model(name))


def _order(result: SearchResult) -> list[tuple[int, str]]:
    return [(step.block, step.sublayer) for step in result.steps]


@torch.no_grad()
def _without(model: nn.Module, gone: list[tuple[int, str]]) -> nn.Module:
    """A copy in which the output projections of the sublayers ``gone`` read nothing."""
    model = copy.deepcopy(model)
    for block, sublayer in gone:
        of_block = Adapter(model).blocks[block]
        (of_block.o if sublayer == "attention" else of_block.down).weight.zero_()
    return model


@torch.no_grad()
def _perplexity(model: nn.Module, tokens: Tensor) -> float:
    """By the definition: every token but the first of its sample, in float64."""
    losses = []
    for row in tokens:
        probabilities = torch.log_softmax(model(row[None]).logits[0].double(), dim=-1)
        losses += [-probabilities[i, token].item() for i, token in enumerate(row[1:])]
    return math.exp(sum(losses) / len(losses))


def _plan(model: nn.Module, gone: list[tuple[int, str]]) -> PruningPlan:
    """The plan that removes the sublayers ``gone``."""
    shape, blocks = Adapter(model).shape, []
    for index, block in enumerate(shape.blocks):
        heads = () if (index, "attention") in gone else tuple(range(block.heads))
        channels = () if (index, "ffn") in gone else tuple(range(block.channels))
        blocks.append(BlockPlan(heads, channels))
    return PruningPlan(shape, tuple(blocks))


def _own_forwards(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_leaving_the_blocks_gives_the_logits_of_the_model(name):
    model, tokens = tiny_model(name), tiny_tokens(3)
    adapter = Adapter(model)
    entrance = enter_blocks(adapter, tokens)
    hidden = entrance.hidden
    for index, block in enumerate(adapter.blocks):
        hidden = entrance.run(index, block.module, hidden)
    expected = model(tokens).logits
    torch.testing.assert_close(leave_blocks(adapter, tokens, hidden), expected, rtol=0, atol=0)
    assert _own_forwards(model) == []


@pytest.mark.parametrize("name", FAMILIES)
def test_every_perplexity_is_that_of_the_model_without_what_was_removed(name):
    model, tokens = tiny_model(name), tiny_tokens()[:4]
    result = _full_search(name)
    assert result.dense == pytest.approx(perplexity(model, tokens, window=24), rel=1e-5)
    for count, step in enumerate(result.steps, start=1):
        gone = _order(result)[:count]
        for without in (_without(model, gone), apply_plan(model, _plan(model, gone))):
            left = perplexity(without, tokens, window=24)
            assert step.perplexity == pytest.approx(left, rel=1e-5)


@pytest.mark.parametrize("name", ["llama", "qwen2", "opt", "neox", "gemma2", "phi3"])
def test_the_first_two_steps_are_those_of_an_exhaustive_search(name):
    model, tokens = tiny_model(name), tiny_tokens()[:4]
    gone: list[tuple[int, str]] = []
    for step in _full_search(name).steps[:2]:
        tried = {
            sublayer: _perplexity(_without(model, [*gone, sublayer]), tokens)
            for sublayer in ALL
            if sublayer not in gone
        }
        gone.append(min(tried, key=tried.get))
        assert (step.block, step.sublayer) == gone[-1]
        assert step.perplexity == pytest.approx(tried[gone[-1]], rel=1e-5)


def test_of_equals_the_earlier_block_goes_and_its_attention_first():
    idle = [(0, "ffn"), (1, "attention"), (1, "ffn"), (2, "attention")]
    model = _without(tiny_model("llama"), idle)
    result = _search(model)
    assert _order(result) == idle
    assert {step.perplexity for step in result.steps} == {result.dense}


@torch.no_grad()
def test_a_perplexity_that_is_not_a_number_is_the_worst():
    model = tiny_model("llama")
    model.model.layers[1].mlp.down_proj.weight.fill_(math.nan)
    assert _search(model, until=0.01).steps[0][:2] == (1, "ffn")
    assert math.isinf(_search(model, until=0.01).dense)


@pytest.mark.parametrize("name", ["qwen3", "neox"])
def test_one_attention_and_one_ffn_always_stay(name):
    order = _order(_full_search(name))
    assert len(order) == len(set(order)) == 2 * (LAYERS - 1)
    assert [sublayer for _, sublayer in order].count("ffn") == LAYERS - 1


@pytest.mark.parametrize("until", [0.05, 0.3, 0.5])
def test_the_search_ends_when_the_share_is_reached(until):
    model = tiny_model("qwen2")
    order = _order(_search(model, until=until))
    assert _plan(model, order[:-1]).realised < until <= _plan(model, order).realised
    assert order == _order(_full_search("qwen2"))[: len(order)]


@pytest.mark.parametrize("count", [0, 1, 3])
def test_an_interrupted_search_goes_on_to_the_same_end(count):
    model, seen = tiny_model("llama-gqa"), []

    def stop_after(step):
        seen.append(step)
        if len(seen) == count:
            raise Cancelled

    if count:
        with pytest.raises(Cancelled):
            _search(model, on_step=stop_after)
    stored, new = json.loads(json.dumps(seen)), []
    result = _search(model, done=stored, on_step=new.append)
    assert _order(result) == _order(_full_search("llama-gqa"))
    assert [*seen, *new] == list(result.steps)
    for step, expected in zip(result.steps, _full_search("llama-gqa").steps, strict=True):
        assert step.perplexity == pytest.approx(expected.perplexity, rel=1e-6)


def test_a_stored_search_is_read_as_far_as_it_is_needed():
    model, new = tiny_model("opt"), []
    result = _search(model, until=0.3, done=_full_search("opt").steps, on_step=new.append)
    assert new == []
    assert result == _search(model, until=0.3)


ONE = (0, "ffn", 9.0)


@pytest.mark.parametrize("done", [[(3, *ONE[1:])], [(0, "mlp", 9.0)], [ONE, ONE], [ONE, ONE[:2]]])
def test_steps_of_another_model_are_refused(done):
    with pytest.raises(InputError, match=f"Step {len(done)} of the interrupted search"):
        _search(tiny_model("llama"), done=done)


def test_a_trial_runs_only_from_its_own_block_on():
    model, seen = tiny_model("llama"), []
    blocks = dict(enumerate(model.model.layers))
    with capture_inputs(blocks, lambda index, x: seen.append(index)):
        (step,) = _search(model, until=0.01).steps
    last = LAYERS - 1
    for index in range(LAYERS):
        idle = 1 + 1 + len(ALL)  # handing on where the model is entered, and left: dense, trials
        trials = 2 * (index + 1)
        kept = 1 + (step.block <= index) if index < last else 1  # the last: the dense perplexity
        assert seen.count(index) == idle + trials + kept


@pytest.mark.parametrize(("calls", "after"), [("progress", 8), ("on_step", 1), ("on_step", 9)])
@pytest.mark.parametrize("name", ["gemma2", "opt"])
def test_the_model_is_left_as_it_was(name, calls, after):
    model, called = tiny_model(name), []
    next(model.children()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    modes = {key: module.training for key, module in model.named_modules()}

    def stop(*args):
        called.append(args)
        if len(called) > after:
            raise Cancelled

    with pytest.raises(Cancelled) if after < 9 else nullcontext():
        _search(model, **{calls: stop})
    assert _own_forwards(model) == []
    assert {key: module.training for key, module in model.named_modules()} == modes
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_progress_grows_and_comes_before_every_trial():
    seen, at_steps = [], []
    result = _search(
        tiny_model("qwen2"),
        title="BlockPruner",
        progress=lambda *report: seen.append(report),
        on_step=lambda step: at_steps.append(len(seen)),
    )
    fractions, messages = zip(*seen, strict=True)
    assert list(fractions) == sorted(fractions)
    assert (fractions[0], fractions[-1]) == (0, 1)
    assert (at_steps[0], at_steps[1] - at_steps[0]) == (1 + len(ALL), len(ALL) - 1)
    assert "removed 0 of up to 4 sublayers" in messages[1]
    last = f"perplexity {result.steps[-1].perplexity:,.1f}"
    assert messages[-1] == f"BlockPruner: removed 4 of up to 4 sublayers, {last}"


@cache
def _scores() -> Scores:
    options = {"tokens": TOKENS, "until": 0.4}
    return score(tiny_model("qwen3"), None, "blockpruner", calibration=_calibration(), **options)


def test_the_mean_score_of_a_sublayer_is_its_rank():
    order = _order(_search(tiny_model("qwen3"), until=0.4))
    for index, block in enumerate(_scores().blocks):
        for sublayer, values in (("attention", block.attention), ("ffn", block.ffn)):
            gone = (index, sublayer) in order
            rank = order.index((index, sublayer)) + 1 if gone else len(order) + 1
            assert values.tolist() == [rank] * len(values)
            assert values.mean().item() == rank


def test_a_plan_removes_sublayers_in_the_order_of_the_search():
    model = tiny_model("qwen3")
    gone = _order(_search(model, until=0.4))
    plan = make_plan(_scores(), sparsity=_plan(model, gone).realised)
    assert plan.blocks == _plan(model, gone).blocks


def test_scores_carry_the_options_and_the_fingerprint():
    assert _scores().options == {"tokens": TOKENS, "until": 0.4}
    assert _scores().fingerprint == _calibration().fingerprint


@pytest.mark.parametrize(("tokens", "samples", "length"), [(10, 1, 10), (47, 1, 24), (999, 6, 24)])
def test_perplexity_is_taken_on_the_first_tokens_in_whole_samples(tokens, samples, length):
    model = tiny_model("llama")
    expected = perplexity(model, tiny_tokens()[:samples, :length], window=length)
    result = search(Adapter(model), _calibration(), tokens=tokens, until=0.01)
    assert result.dense == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tokens": 1}, "at least 2 tokens"),
        ({"tokens": -5}, "at least 2 tokens"),
        ({"until": 0.0}, "above 0 and at most 1, not 0"),
        ({"until": 1.5}, "above 0 and at most 1, not 1.5"),
        ({"until": math.nan}, "above 0 and at most 1, not nan"),
        ({"until": 1}, "of type float"),
        ({"tokens": 10.0}, "of type int"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        score(tiny_model("llama"), None, "blockpruner", calibration=_calibration(), **options)


def test_samples_of_one_token_are_refused():
    with pytest.raises(InputError, match="samples of at least 2 tokens"):
        search(Adapter(tiny_model("llama")), CalibrationSet.from_tokens(tiny_tokens(6, 1)))


def test_memory_holds_the_hidden_states_and_two_batches_of_logits():
    shape = Adapter(tiny_model("llama")).shape
    expected = 4 * (2000 * 64 * LAYERS + 2 * 512 * 97)
    assert memory(shape, 24, tokens=2000) == expected
