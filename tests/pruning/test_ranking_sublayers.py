"""Plans that remove whole sublayers, in the order that a search found."""

import random
from dataclasses import replace

import pytest
import torch

from bipcore.criteria import BlockScores, Scores
from bipcore.errors import InputError
from bipcore.models.shapes import BlockShape
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from tests.helpers.shapes import SMALL_GQA, SMALL_MHA, random_scores

EVERY = [(block, sublayer) for block in range(6) for sublayer in ("attention", "ffn")]


def _ranked(order, shape=SMALL_GQA) -> Scores:
    """The scores of a search that removed the sublayers of ``order``, and then stopped."""
    blocks = []
    for index, block in enumerate(shape.blocks):
        attention, ffn = (
            order.index((index, s)) + 1 if (index, s) in order else len(order) + 1
            for s in ("attention", "ffn")
        )
        sizes = ((block.heads * shape.head_dim, attention), (block.heads, attention))
        sizes = (*sizes, (block.kv_heads, attention), (block.channels, ffn))
        blocks.append(BlockScores(*(torch.full((n,), float(rank)) for n, rank in sizes)))
    return Scores(tuple(blocks), "blockpruner", {}, shape, "0" * 16)


def _gone(plan: PruningPlan) -> set[tuple[int, str]]:
    """The sublayers that are gone; the others have to be whole."""
    gone = set()
    for index, (block, was) in enumerate(zip(plan.blocks, plan.shape.blocks, strict=True)):
        for name, kept, width in (
            ("attention", block.heads, was.heads),
            ("ffn", block.channels, was.channels),
        ):
            assert kept in ((), tuple(range(width)))
            if width and not kept:
                gone.add((index, name))
    return gone


def _share(shape, gone) -> float:
    """The share of the blocks' parameters in these sublayers, from the widths."""
    sizes = {"attention": 0, "ffn": 0}
    was = shape.blocks[0]
    sizes["attention"] = was.heads * shape.head_cost.parameters
    sizes["attention"] += was.kv_heads * shape.kv_head_cost.parameters
    sizes["ffn"] = was.channels * shape.channel_cost.parameters
    return sum(sizes[sublayer] for _, sublayer in gone) / shape.block_parameters


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("shape", [SMALL_GQA, SMALL_MHA], ids=["gqa", "mha"])
def test_sublayers_go_in_their_order_up_to_what_is_nearest(shape, seed):
    order = random.Random(seed).sample(EVERY, 8)
    for sparsity in (0.01, 0.1, 0.25, 0.4, 0.5):
        steps = [order[:count] for count in range(9)]
        nearest = min(steps, key=lambda gone: abs(_share(shape, gone) - sparsity))
        plan = make_plan(_ranked(order, shape), sparsity=sparsity)
        assert _gone(plan) == set(nearest)
        assert plan.realised == pytest.approx(_share(shape, nearest))


def test_the_criterions_own_allocation_is_the_only_one():
    assert make_plan(_ranked(EVERY[:6]), sparsity=0.2).spec["allocation"] == "sublayer"
    for allocation in ("uniform", "paper", "global"):
        with pytest.raises(InputError, match="ranks whole sublayers"):
            make_plan(_ranked(EVERY[:6]), sparsity=0.2, allocation=allocation)
    with pytest.raises(InputError, match="does not rank whole sublayers"):
        make_plan(random_scores(SMALL_GQA), sparsity=0.2, allocation="sublayer")


@pytest.mark.parametrize("count", [0, 1, 4, 9])
def test_what_the_search_did_not_reach_never_goes(count):
    order = random.Random(7).sample(EVERY, count)
    share = _share(SMALL_GQA, order)
    assert _gone(make_plan(_ranked(order), sparsity=share)) == set(order)
    with pytest.raises(InputError, match=f"at most {share:.1%}") as caught:
        make_plan(_ranked(order), sparsity=share + 0.06)
    assert "\n" not in str(caught.value)


def test_sparsity_0_keeps_everything():
    assert make_plan(_ranked(EVERY[:5]), sparsity=0).pruned_shape == SMALL_GQA


def test_protected_blocks_keep_their_sublayers_and_the_next_go():
    order = [(0, "ffn"), (5, "attention"), (2, "attention"), (3, "ffn")]
    share = _share(SMALL_GQA, order[2:])
    plan = make_plan(_ranked(order), sparsity=share, protect_first=1, protect_last=1)
    assert _gone(plan) == set(order[2:])


def test_with_the_unit_none_attention_stays():
    order = [(0, "attention"), (1, "ffn"), (2, "attention"), (3, "ffn")]
    share = _share(SMALL_GQA, order[1::2])
    assert _gone(make_plan(_ranked(order), sparsity=share, unit="none")) == set(order[1::2])
    with pytest.raises(InputError, match="at most"):
        make_plan(_ranked(order), sparsity=_share(SMALL_GQA, order), unit="none")


def test_of_equal_ranks_the_earlier_block_goes_and_its_attention_first():
    scores = _ranked(EVERY[:11])
    tied = [
        BlockScores(*(torch.ones_like(values) for values in vars(block).values()))
        for block in scores.blocks[:5]
    ]
    plan = make_plan(replace(scores, blocks=(*tied, scores.blocks[5])), sparsity=0.16)
    assert _gone(plan) == {(0, "attention"), (0, "ffn")}


def test_what_went_before_is_no_hindrance():
    shape = SMALL_GQA.with_blocks(
        (BlockShape(0, 0, 96), BlockShape(8, 2, 0), *SMALL_GQA.blocks[2:])
    )
    order = [(0, "ffn"), (3, "ffn"), (4, "attention")]
    plan = make_plan(_ranked(order, shape), sparsity=0.28)
    assert _gone(plan) == {(0, "ffn"), (3, "ffn")}
    assert plan.blocks[1] == BlockPlan(tuple(range(8)), ())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("allocation", ["global", "uniform", "paper"])
def test_a_model_with_sublayers_gone_can_be_planned_again(allocation):
    shape = SMALL_GQA.with_blocks(
        (BlockShape(0, 0, 96), BlockShape(8, 2, 0), *SMALL_GQA.blocks[2:])
    )
    scores = random_scores(shape)
    plan = make_plan(scores, sparsity=0.3, allocation=allocation, floor=0.1)
    assert plan.pruned_shape.blocks[0].heads == plan.pruned_shape.blocks[1].channels == 0
    assert plan.realised == pytest.approx(0.3, abs=0.04)
    with pytest.raises(InputError, match="multiple of 128"):
        make_plan(scores, sparsity=0.3, allocation=allocation, round_to=128)


def test_a_plan_of_whole_sublayers_survives_json():
    plan = make_plan(_ranked(EVERY[:6]), sparsity=0.3)
    assert PruningPlan.from_json(plan.to_json()) == plan
