"""Changing a plan by hand: what goes with what, what it costs, and what is refused."""

from collections import Counter
from dataclasses import replace

import pytest
import torch

from bipcore.errors import InputError
from bipcore.pruning import editing
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.editing import edits
from bipcore.pruning.plan import BlockPlan, PruningPlan
from tests.helpers.shapes import SMALL_GQA, SMALL_MHA, SMOLLM2, random_scores

MHA, GQA = random_scores(SMALL_MHA), random_scores(SMALL_GQA)


def _plan(scores, **options) -> PruningPlan:
    plan = make_plan(scores, **({"sparsity": 0.3} | options))
    return replace(plan, spec={**plan.spec, "compensation": "bias"})


def _parameters(plan: PruningPlan) -> int:
    return plan.pruned_shape.parameters


def _lost(before: PruningPlan, after: PruningPlan, block: int) -> set[int]:
    return set(before.blocks[block].heads) - set(after.blocks[block].heads)


def _lowest(scores, block: int, heads) -> int:
    return min(heads, key=lambda head: float(scores.blocks[block].heads[head]))


def test_in_mha_a_head_goes_alone_with_its_key_value_head():
    before = _plan(MHA)
    head = before.blocks[2].heads[1]
    after = editing.drop_head(before, 2, head, MHA)
    assert _lost(before, after, 2) == {head}
    shape = SMALL_MHA
    cost = shape.head_cost.parameters + shape.kv_head_cost.parameters
    assert _parameters(before) - _parameters(after) == cost
    assert edits(after) == [f"block 2: head {head} removed"]


def test_with_query_heads_the_lowest_of_every_other_group_goes_too():
    before = _plan(GQA)
    head = before.blocks[2].heads[0]
    others = [h for h in before.blocks[2].heads if h // 4 != head // 4]
    after = editing.drop_head(before, 2, head, GQA)
    companion = _lowest(GQA, 2, others)
    assert _lost(before, after, 2) == {head, companion}
    assert _parameters(before) - _parameters(after) == 2 * SMALL_GQA.head_cost.parameters
    assert edits(after) == [f"block 2: head {head} removed, and with it head {companion}"]


def test_without_scores_the_companions_are_chosen_by_index_and_that_is_said():
    before = _plan(GQA, sparsity=0)
    after = editing.drop_head(before, 0, 1)
    assert _lost(before, after, 0) == {1, 7}
    assert edits(after) == ["block 0: head 1 removed, and with it head 7 (chosen by index)"]
    back = editing.keep_head(after, 0, 1)
    assert back.blocks == before.blocks


def test_with_kv_groups_the_whole_group_goes_and_comes_back():
    before = _plan(GQA, sparsity=0, unit="kv-group")
    after = editing.drop_head(before, 1, 5, GQA)
    assert _lost(before, after, 1) == {4, 5, 6, 7}
    cost = 4 * SMALL_GQA.head_cost.parameters + SMALL_GQA.kv_head_cost.parameters
    assert _parameters(before) - _parameters(after) == cost
    assert editing.keep_head(after, 1, 6, GQA).blocks == before.blocks


def test_the_last_head_of_a_group_goes_alone_with_the_key_value_head():
    plan = _plan(GQA, sparsity=0)
    for _ in range(3):
        plan = editing.drop_head(plan, 0, plan.blocks[0].heads[0], GQA)
    assert plan.pruned_shape.blocks[0].heads == 2
    first = plan.blocks[0].heads[0]
    after = editing.drop_head(plan, 0, first, GQA)
    assert (after.pruned_shape.blocks[0].heads, after.pruned_shape.blocks[0].kv_heads) == (1, 1)
    assert editing.keep_head(after, 0, first, GQA).blocks == plan.blocks


def test_a_head_of_a_group_that_is_gone_comes_back_with_as_many_as_the_others_have():
    heads = (0, 2)
    blocks = (BlockPlan(heads, (0,)), *_plan(GQA, sparsity=0).blocks[1:])
    plan = PruningPlan(SMALL_GQA, blocks)
    after = editing.keep_head(plan, 0, 5, GQA)
    back = set(after.blocks[0].heads) - set(heads)
    best = max((4, 6, 7), key=lambda head: float(GQA.blocks[0].heads[head]))
    assert back == {5, best}


def test_a_head_of_an_empty_attention_comes_back_alone():
    plan = editing.drop_attention(_plan(GQA), 3)
    after = editing.keep_head(plan, 3, 2, GQA)
    assert after.blocks[3].heads == (2,)


@pytest.mark.parametrize(("scores", "unit"), [(MHA, "head"), (GQA, "query-head")])
def test_keeping_what_was_dropped_by_score_gives_the_plan_back(scores, unit):
    before = _plan(scores, unit=unit)
    for block, keep in enumerate(before.blocks):
        head = _lowest(scores, block, keep.heads)
        after = editing.drop_head(before, block, head, scores)
        assert editing.keep_head(after, block, head, scores).blocks == before.blocks


def test_channels_go_and_come_back_at_their_cost():
    before = _plan(MHA)
    gone = before.blocks[1].channels[3:6]
    after = editing.drop_channels(before, 1, gone)
    assert set(before.blocks[1].channels) - set(after.blocks[1].channels) == set(gone)
    cost = 3 * SMALL_MHA.channel_cost.parameters
    assert _parameters(before) - _parameters(after) == cost
    assert editing.keep_channels(after, 1, gone).blocks == before.blocks
    assert edits(after) == [f"block 1: FFN channels {', '.join(map(str, gone))} removed"]


@pytest.mark.parametrize("count", [0, 1, 40, 95, 96])
def test_a_number_of_channels_is_chosen_by_score(count):
    after = editing.keep_channel_count(_plan(MHA), 4, count, MHA)
    best = torch.argsort(MHA.blocks[4].ffn)[96 - count :].sort().values
    assert list(after.blocks[4].channels) == best.tolist()


def test_of_channel_counts_that_follow_each_other_the_last_is_noted():
    plan = editing.keep_channel_count(_plan(MHA), 4, 50, MHA)
    plan = editing.keep_channel_count(plan, 4, 30, MHA)
    assert edits(plan) == ["block 4: by score 30 of 96 FFN channels kept"]
    plan = editing.keep_channel_count(plan, 5, 30, MHA)
    assert len(edits(plan)) == 2


def test_a_smaller_number_takes_only_from_what_is_kept():
    plan = editing.drop_channels(_plan(MHA, sparsity=0), 0, [int(MHA.blocks[0].ffn.argmax())])
    after = editing.keep_channel_count(plan, 0, 40, MHA)
    assert set(after.blocks[0].channels) < set(plan.blocks[0].channels)


def test_a_protected_block_keeps_everything():
    after = editing.protect_block(_plan(GQA), 0)
    assert after.pruned_shape.blocks[0] == SMALL_GQA.blocks[0]
    assert editing.protect_block(after, 0) is after


def test_whole_sublayers_go():
    before = _plan(GQA)
    shape = before.pruned_shape.blocks[2]
    without_heads = editing.drop_attention(before, 2)
    without_both = editing.drop_ffn(without_heads, 2)
    heads = shape.heads * SMALL_GQA.head_cost.parameters
    heads += shape.kv_heads * SMALL_GQA.kv_head_cost.parameters
    assert _parameters(before) - _parameters(without_heads) == heads
    channels = shape.channels * SMALL_GQA.channel_cost.parameters
    assert _parameters(without_heads) - _parameters(without_both) == channels
    assert editing.drop_ffn(without_both, 2) is without_both
    assert edits(without_both) == ["block 2: attention removed", "block 2: FFN removed"]


def test_a_block_is_restored_from_the_plan_before():
    before = _plan(GQA)
    after = editing.drop_ffn(editing.drop_attention(before, 2), 2)
    restored = editing.restore_block(after, 2, before)
    assert restored.blocks == before.blocks
    assert editing.restore_block(before, 2, before) is before


def test_the_rest_of_the_spec_is_kept():
    before = _plan(GQA)
    after = editing.drop_ffn(before, 0)
    assert {k: v for k, v in after.spec.items() if k != "edited"} == dict(before.spec)
    assert "edited" not in before.spec


def test_edits_survive_json():
    plan = editing.drop_ffn(_plan(GQA), 0)
    assert edits(PruningPlan.from_json(plan.to_json())) == ["block 0: FFN removed"]
    assert edits(replace(plan, spec={"edited": "nonsense"})) == []


def test_the_last_attention_of_all_cannot_go():
    plan = _plan(MHA)
    for block in range(1, 6):
        plan = editing.drop_attention(plan, block)
    with pytest.raises(InputError, match="no token could see another"):
        editing.drop_attention(plan, 0)
    for head in plan.blocks[0].heads[1:]:
        plan = editing.drop_head(plan, 0, head, MHA)
    with pytest.raises(InputError, match="no token could see another"):
        editing.drop_head(plan, 0, plan.blocks[0].heads[0], MHA)


@pytest.mark.parametrize(
    ("edit", "arguments", "said"),
    [
        (editing.drop_head, (6, 0), "There is no block 6; the blocks are 0 to 5"),
        (editing.drop_head, (-1, 0), "There is no block -1"),
        (editing.drop_head, (0, 8), "has no head 8; it has 8"),
        (editing.keep_head, (0, -1), "has no head -1"),
        (editing.keep_head, (0, 0), "is kept already"),
        (editing.drop_channels, (0, [96]), "has no channel 96"),
        (editing.drop_channels, (0, [-1]), "has no channel -1"),
        (editing.drop_channels, (0, []), "No channel is named"),
        (editing.keep_channels, (0, [5]), "Channel 5 of block 0 is kept already"),
        (editing.keep_channel_count, (0, 97, GQA), "has 96 FFN channels"),
        (editing.keep_channel_count, (0, -1, GQA), "has 96 FFN channels"),
        (editing.keep_channel_count, (0, 4, MHA), "another shape"),
        (editing.drop_head, (0, 0, MHA), "another shape"),
        (editing.protect_block, (9,), "There is no block 9"),
        (editing.drop_ffn, (9,), "There is no block 9"),
        (editing.restore_block, (0, _plan(MHA)), "different shapes"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_sentence(edit, arguments, said):
    with pytest.raises(InputError, match=said):
        edit(_plan(GQA, sparsity=0), *arguments)


def test_what_is_gone_cannot_go_again():
    plan = editing.drop_channels(_plan(GQA, sparsity=0), 0, [3])
    with pytest.raises(InputError, match="Channel 3 of block 0 is removed already"):
        editing.drop_channels(plan, 0, [2, 3])
    plan = editing.drop_head(plan, 0, 3, GQA)
    with pytest.raises(InputError, match="Head 3 of block 0 is removed already"):
        editing.drop_head(plan, 0, 3, GQA)


def _random_edit(plan: PruningPlan, scores, draw) -> PruningPlan:
    block = draw(len(plan.blocks))
    head, count = draw(plan.shape.blocks[block].heads), draw(plan.shape.blocks[block].channels + 1)
    kept = head in plan.blocks[block].heads
    known = scores if draw(2) else None
    return (
        lambda: (editing.drop_head if kept else editing.keep_head)(plan, block, head, known),
        lambda: (editing.drop_head if kept else editing.keep_head)(plan, block, head, known),
        lambda: editing.keep_channel_count(plan, block, count, scores),
        lambda: editing.protect_block(plan, block),
        lambda: editing.drop_attention(plan, block),
        lambda: editing.drop_ffn(plan, block),
    )[draw(6)]()


@pytest.mark.parametrize("unit", ["query-head", "kv-group"])
@pytest.mark.parametrize("shape", [SMALL_GQA, SMALL_MHA, SMOLLM2])
def test_no_row_of_edits_makes_a_plan_that_cannot_be(shape, unit):
    generator = torch.Generator().manual_seed(3)
    scores = random_scores(shape)
    plan = make_plan(scores, sparsity=0.3, unit=unit)
    for _ in range(150):
        plan = _random_edit(
            plan, scores, lambda n: int(torch.randint(n, (1,), generator=generator))
        )
        again = PruningPlan(plan.shape, plan.blocks)  # raises where it is not valid
        for was, keep in zip(again.shape.blocks, again.blocks, strict=True):
            assert len(set(Counter(head // was.group for head in keep.heads).values())) <= 1
