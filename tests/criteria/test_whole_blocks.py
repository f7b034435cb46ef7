"""Criteria that rank whole blocks, against slow versions, and the plans that they make."""

import copy

import pytest
import torch

from bipcore.criteria import score
from bipcore.criteria.block_influence import block_influence
from bipcore.criteria.greedy_search import BLOCK, search
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.models.adapters import Adapter
from bipcore.progress import silent
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.tiny import CONFIGS, FAMILIES, random_model, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

CALIBRATION = CalibrationSet.from_tokens(tiny_tokens())


@pytest.fixture(scope="module")
def deep():
    """A tiny LLaMA of five blocks."""
    config = CONFIGS["llama"]()
    config.num_hidden_layers = 5
    return random_model(config)


@torch.no_grad()
def without(model, gone: list[int]):
    """A copy in which these blocks add nothing."""
    model = copy.deepcopy(model)
    for index in gone:
        block = Adapter(model).blocks[index]
        block.o.weight.zero_()
        block.down.weight.zero_()
    return model


@torch.no_grad()
def loss_of(model, tokens) -> float:
    losses = []
    for row in tokens:
        chances = torch.log_softmax(model(row[None]).logits[0].double(), dim=-1)
        losses += [-chances[i, token].item() for i, token in enumerate(row[1:])]
    return sum(losses) / len(losses)


def test_the_search_takes_the_blocks_of_an_exhaustive_one_and_neither_end(deep):
    how = {"tokens": 96, "until": 1.0, "parts": (BLOCK,), "ends": 1}
    steps = search(Adapter(deep), CALIBRATION, **how).steps
    gone: list[int] = []
    for step in steps:
        left = [index for index in (1, 2, 3) if index not in gone]
        losses = {i: loss_of(without(deep, [*gone, i]), CALIBRATION.tokens[:4]) for i in left}
        assert step.block == min(left, key=losses.get)
        assert step.sublayer == BLOCK
        gone.append(step.block)
    assert len(steps) == 2  # one that may go always stays


@pytest.mark.parametrize("name", FAMILIES)
def test_block_influence_is_that_of_the_hidden_states(name):
    model = tiny_model(name)
    found = block_influence(Adapter(model), CALIBRATION, silent, batch_size=2)
    seen = []
    handles = [
        block.module.register_forward_hook(
            lambda module, args, out: seen.append((args[0], out)), always_call=True
        )
        for block in Adapter(model).blocks
    ]
    with torch.no_grad():
        model(input_ids=CALIBRATION.tokens)
    for handle in handles:
        handle.remove()
    for influence, (before, after) in zip(found, seen, strict=True):
        x, y = before.double(), after.double()
        cosine = (x * y).sum(-1) / (x.norm(dim=-1) * y.norm(dim=-1))
        assert influence == pytest.approx(1 - cosine.mean().item(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("criterion", ["block-influence", "sleb"])
def test_a_plan_removes_whole_blocks_in_that_order(deep, criterion):
    scores = score(deep, None, criterion, calibration=CALIBRATION)
    order = sorted(range(5), key=lambda i: (float(scores.blocks[i].ffn[0]), i))
    for count in (1, 2):
        plan = make_plan(scores, sparsity=count / 5)
        assert plan.spec["allocation"] == "block"
        assert plan.realised == pytest.approx(count / 5, rel=0.01)  # norms stay
        gone = [i for i, kept in enumerate(plan.blocks) if not kept.heads and not kept.channels]
        assert sorted(gone) == sorted(order[:count])
        tokens = tiny_tokens(2, 9, seed=3)
        with torch.no_grad():
            got = apply_plan(deep, plan)(input_ids=tokens).logits
            torch.testing.assert_close(got, without(deep, gone)(input_ids=tokens).logits)
    ends = {"protect_first": order[0] + 1} if order[0] < 3 else {"protect_last": 5 - order[0]}
    assert make_plan(scores, sparsity=0.2, **ends).blocks[order[0]].heads


def test_what_does_not_go_together_is_refused(deep):
    scores = score(deep, None, "block-influence", calibration=CALIBRATION)
    with pytest.raises(InputError, match="ranks whole blocks"):
        make_plan(scores, sparsity=0.2, allocation="uniform")
    with pytest.raises(InputError, match="does not rank whole blocks"):
        make_plan(score(deep, None, "magnitude"), sparsity=0.2, allocation="block")
    with pytest.raises(InputError, match="unit none keeps"):
        make_plan(scores, sparsity=0.2, unit="none")
    with pytest.raises(InputError, match=r"at most 80\.0%"):
        make_plan(scores, sparsity=0.95)
    assert make_plan(scores, sparsity=0).removes_nothing
