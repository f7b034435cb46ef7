"""Scores and plans as data frames."""

import numpy
import pytest

from bipcore.criteria import Scores
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import PruningPlan
from bipcore.views.scores import extreme_scores, scores_frame, summary_frame
from tests.helpers.shapes import SMALL_GQA, random_scores

SHAPE = SMALL_GQA  # 6 blocks of 8 query heads, 2 key/value heads, 96 channels


@pytest.fixture(scope="module")
def scores() -> Scores:
    return random_scores(SHAPE)


def _plan(scores, **options) -> PruningPlan:
    return make_plan(scores, sparsity=0.5, **options)


def test_every_head_group_and_channel_has_a_row(scores):
    frame = scores_frame(scores)
    assert list(frame.columns) == ["block", "kind", "index", "score"]
    counts = frame.groupby(["block", "kind"]).size().unstack()
    assert counts.to_dict("list") == {"channel": [96] * 6, "head": [8] * 6, "kv_group": [2] * 6}


def test_the_scores_stand_beside_their_indices(scores):
    frame = scores_frame(scores)
    rows = frame[(frame.block == 3) & (frame.kind == "channel")]
    assert rows["index"].tolist() == list(range(96))
    numpy.testing.assert_array_equal(rows.score, scores.blocks[3].ffn)


def test_with_a_plan_every_row_says_whether_it_stays(scores):
    plan = _plan(scores)
    kept = scores_frame(scores, plan).query("kept")
    for number, block in enumerate(plan.blocks):
        of_block = kept[kept.block == number]
        assert of_block[of_block.kind == "head"]["index"].tolist() == list(block.heads)
        assert of_block[of_block.kind == "channel"]["index"].tolist() == list(block.channels)


@pytest.mark.parametrize(("unit", "groups"), [("query-head", 2), ("kv-group", 1)])
def test_a_group_stays_while_one_of_its_heads_does(scores, unit, groups):
    frame = scores_frame(scores, _plan(scores, unit=unit))
    kept = frame[frame.kind == "kv_group"].groupby("block").kept.sum()
    assert kept.tolist() == [groups] * 6


def test_the_summary_has_one_row_a_block_with_its_quartiles(scores):
    frame = summary_frame(scores)
    expected = [numpy.quantile(b.ffn.numpy(), [0, 0.25, 0.5, 0.75, 1]) for b in scores.blocks]
    columns = ["ffn_min", "ffn_q1", "ffn_median", "ffn_q3", "ffn_max"]
    assert frame.block.tolist() == list(range(6))
    numpy.testing.assert_allclose(frame[columns], expected, rtol=1e-6)
    assert "heads_removed" not in frame


def test_the_summary_counts_what_a_plan_removes(scores):
    plan = _plan(scores, protect_first=1)
    frame = summary_frame(scores, plan)
    assert frame.heads_removed.tolist() == [8 - len(block.heads) for block in plan.blocks]
    assert frame.channels_removed.tolist() == [96 - len(block.channels) for block in plan.blocks]
    assert frame.heads_removed[0] == frame.channels_removed[0] == 0


@pytest.mark.parametrize("kind", ["head", "kv_group", "channel"])
@pytest.mark.parametrize("count", [0, 1, 5, 10_000])
def test_the_extremes_are_those_of_the_whole_frame(scores, kind, count):
    plan = _plan(scores)
    frame = scores_frame(scores, plan)
    frame = frame[frame.kind == kind].drop(columns="kind")
    largest, smallest = extreme_scores(scores, plan, kind, count=count)
    for found, expected in (
        (largest, frame.nlargest(count, "score")),
        (smallest, frame.nsmallest(count, "score")),
    ):
        columns = ["block", "index", "score", "kept"]
        assert found[columns].values.tolist() == expected[columns].values.tolist()
