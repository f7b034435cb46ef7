"""Where a unit stands and why it goes: true of every unit of every kind of plan."""

import re
from dataclasses import replace

import pytest

from bipcore.criteria import find_criterion
from bipcore.errors import InputError
from bipcore.pruning.editing import (
    drop_attention,
    drop_channels,
    drop_head,
    protect_block,
)
from bipcore.pruning.plan import BlockPlan
from bipcore.pruning.standing import fate, standing
from tests.helpers.pruning import plan_for, scores_of
from tests.helpers.tiny import one_thread as one_thread

TITLE = find_criterion("random").title
PLANS = [
    ("llama", {}),
    ("llama", {"allocation": "global"}),
    ("llama", {"protect_first": 1, "protect_last": 1, "sparsity": 0.2}),
    ("llama-gqa", {}),
    ("llama-gqa", {"unit": "kv-group"}),
    ("llama-gqa", {"unit": "none", "sparsity": 0.3}),
    ("llama-gqa", {"allocation": "global", "floor": 0.0, "sparsity": 0.6}),
    ("gemma2", {"allocation": "paper"}),
    ("qwen2", {"allocation": "log"}),
    ("qwen2", {"sparsity": 0.0}),
]


def _units(plan):
    for block, was in enumerate(plan.shape.blocks):
        for kind, count in (("head", was.heads), ("channel", was.channels)):
            for number in range(count):
                yield block, kind, number


@pytest.mark.parametrize(("name", "options"), PLANS)
def test_every_unit_is_said_to_go_or_to_stay_as_it_does(name, options):
    plan, scores = plan_for(name, **options), scores_of(name)
    for block, kind, number in _units(plan):
        kept = plan.blocks[block].heads if kind == "head" else plan.blocks[block].channels
        for given in (scores, None):
            found = fate(plan, block, kind, number, given)
            assert found.goes == (number not in kept)
            verb = "goes" if found.goes else "stays"
            start = f"{kind.capitalize()} {number} of block {block} {verb}: "
            assert found.sentence.startswith(start)
            _check_counts(plan, block, kind, number, found.sentence)
            _check_number(plan, scores, block, kind, number, found.sentence)


def _check_counts(plan, block, kind, number, said) -> None:
    """The numbers that are said of what stays are those of the plan."""
    was, kept = plan.shape.blocks[block], plan.blocks[block]
    match = re.search(r"([\d,]+) of ([\d,]+) (channels|heads|KV groups)(.*?) stays?\b", said)
    if match is None:
        return
    pairs = {
        "channels": (len(kept.channels), was.channels),
        "KV groups": (len({head // was.group for head in kept.heads}), was.kv_heads),
    }
    if "of its KV group" in match[4]:
        group = number // was.group
        in_group = [head for head in kept.heads if head // was.group == group]
        pairs["heads"] = len(in_group), was.group
    else:
        pairs["heads"] = len(kept.heads), was.heads
    assert (int(match[1]), int(match[2])) == pairs[match[3]]


def _check_number(plan, scores, block, kind, number, said) -> None:
    """Where a place in an order is said, it is that of a plain sort, and the cut divides it."""
    match = re.search(rf"by {re.escape(TITLE)} it is number (\d+), (below|above) the cut", said)
    if match is None:
        return
    was, of_block = plan.shape.blocks[block], scores.blocks[block]
    group = number // was.group
    if kind == "channel":
        values, place = of_block.ffn.tolist(), number
    elif "KV groups" in said:
        values, place = of_block.kv_groups.tolist(), group
    elif "heads of its KV group" in said:
        values = of_block.heads.tolist()[group * was.group : (group + 1) * was.group]
        place = number - group * was.group
    else:
        values, place = of_block.heads.tolist(), number
    assert sorted(values, reverse=True).index(values[place]) + 1 == int(match[1])
    left = int(re.search(r"(\d+) of \d+ [a-zA-Z]", said)[1])
    assert (int(match[1]) > left) == (match[2] == "below")


def test_plans_by_score_say_the_cut_and_those_without_their_scores_do_not():
    plan, scores = plan_for("llama-gqa"), scores_of("llama-gqa")
    for block, kind, number in _units(plan):
        assert f"by {TITLE} it is number" in fate(plan, block, kind, number, scores).sentence
        assert "number" not in fate(plan, block, kind, number).sentence
    other = replace(scores, criterion="magnitude")
    assert "number" not in fate(plan, 0, "channel", 3, other).sentence


def test_a_plan_that_the_scores_did_not_make_is_not_said_to_follow_them():
    plan, scores = plan_for("llama"), scores_of("llama")
    order = scores.blocks[0].ffn.argsort(stable=True).tolist()
    wrong = tuple(sorted(order[: len(plan.blocks[0].channels)]))
    turned = replace(plan, blocks=(BlockPlan(plan.blocks[0].heads, wrong), *plan.blocks[1:]))
    said = fate(turned, 0, "channel", 3, scores).sentence
    assert "number" not in said
    assert f"{len(wrong)} of 96 channels of the block stay" in said


def test_what_was_protected_emptied_or_changed_by_hand_is_said():
    plan = plan_for("llama-gqa", 0.2, protect_first=1)
    scores = scores_of("llama-gqa")
    assert fate(plan, 0, "head", 3).sentence == "Head 3 of block 0 stays: its block is protected."
    gone = drop_attention(plan, 1)
    said = fate(gone, 1, "head", 3, scores).sentence
    assert said == (
        "Head 3 of block 1 goes: the heads of its block were edited by hand (last: attention "
        "removed), and 0 of 8 stay."
    )
    assert "by hand" not in fate(gone, 1, "channel", 3, scores).sentence
    channel = plan.blocks[1].channels[0]
    edited = drop_channels(plan, 1, [channel])
    said = fate(edited, 1, "channel", channel, scores).sentence
    left = len(plan.blocks[1].channels) - 1
    assert f"(last: FFN channel {channel} removed), and {left} of 96 stay" in said
    assert "by hand" not in fate(edited, 1, "head", 0, scores).sentence
    kept = protect_block(plan, 2)
    for kind in ("head", "channel"):
        assert "(last: everything kept)" in fate(kept, 2, kind, 1, scores).sentence
    head = plan.blocks[2].heads[0]
    dropped = drop_head(plan, 2, head, scores)
    assert f"last: head {head} removed" in fate(dropped, 2, "head", head, scores).sentence


def test_whole_sublayers_and_blocks_are_said_to_go_whole():
    plan = plan_for("llama")
    first, second, third = plan.blocks
    made = replace(plan, blocks=(BlockPlan((), first.channels), BlockPlan((), ()), third))
    said = [fate(made, block, "head", 0).sentence for block in (0, 1)]
    assert said[0] == "Head 0 of block 0 goes: the whole attention of the block goes."
    assert said[1] == "Head 0 of block 1 goes: block 1 goes whole."
    whole = replace(plan, blocks=(BlockPlan(first.heads, tuple(range(96))), second, third))
    said = fate(whole, 0, "channel", 5).sentence
    assert said == "Channel 5 of block 0 stays: all 96 channels of the block stay."


def test_the_rank_is_that_of_a_plain_sort():
    scores = scores_of("gemma2")
    for kind, values in (("head", scores.blocks[1].heads), ("channel", scores.blocks[1].ffn)):
        order = sorted(range(len(values)), key=lambda one, v=values: -float(v[one]))
        for number in range(len(values)):
            found = standing(scores, 1, kind, number)
            assert found.score == float(values[number])
            assert (found.rank, found.of) == (1 + order.index(number), len(values))
            assert found.criterion == "random"


@pytest.mark.parametrize(
    ("block", "kind", "number", "said"),
    [
        (3, "head", 0, "There is no block 3; the blocks are 0 to 2."),
        (-1, "channel", 0, "There is no block -1; the blocks are 0 to 2."),
        (0, "head", 8, "Block 0 has no head 8; it has 8, counted from 0."),
        (0, "channel", 96, "Block 0 has no channel 96; it has 96, counted from 0."),
    ],
)
def test_what_there_is_not_is_said_in_one_sentence(block, kind, number, said):
    for look in (fate, standing):
        with pytest.raises(InputError) as error:
            look((plan_for if look is fate else scores_of)("llama"), block, kind, number)
        assert str(error.value) == said
