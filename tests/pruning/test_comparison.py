"""Agreement of criteria, against the slow and obvious way."""

import itertools
import math
from dataclasses import replace

import numpy
import pandas
import pytest
import torch

from bipcore.errors import InputError
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.comparison import (
    CLASSES,
    compare_criteria,
    compare_plans,
    head_classes,
    over_all_blocks,
    overlap_matrix,
    overlaps,
    rank_correlations,
    ranks,
)
from bipcore.pruning.plan import BlockPlan, PruningPlan
from tests.helpers.shapes import SMALL_GQA, SMALL_MHA, random_scores


def _naive_ranks(values) -> list[float]:
    return [
        sum(other < value for other in values) + (sum(other == value for other in values) + 1) / 2
        for value in values
    ]


def _naive_correlation(a, b) -> float:
    a, b = _naive_ranks(a), _naive_ranks(b)
    mean_a, mean_b = sum(a) / len(a), sum(b) / len(b)
    products = sum((x - mean_a) * (y - mean_b) for x, y in zip(a, b, strict=True))
    sizes = [sum((x - mean) ** 2 for x in v) for v, mean in ((a, mean_a), (b, mean_b))]
    return products / math.sqrt(sizes[0] * sizes[1])


@pytest.fixture(scope="module")
def scored():
    """Three sets of scores, with ties."""
    found = {}
    for seed, name in enumerate("abc"):
        scores = random_scores(SMALL_GQA, seed=seed)
        blocks = tuple(
            replace(b, ffn=(b.ffn * 20).round(), heads=(b.heads * 5).round()) for b in scores.blocks
        )
        found[name] = replace(scores, blocks=blocks)
    return found


@pytest.fixture(scope="module")
def plans(scored):
    return {
        "a": make_plan(scored["a"], sparsity=0.3),
        "b": make_plan(scored["b"], sparsity=0.5),
        "c": make_plan(scored["c"], sparsity=0.4, protect_first=1),
    }


def _removed(plan, kind: str, block: int) -> set[int]:
    keep, was = plan.blocks[block], plan.shape.blocks[block]
    if kind == "head":
        return set(range(was.heads)) - set(keep.heads)
    return set(range(was.channels)) - set(keep.channels)


@pytest.mark.parametrize("values", [[3.0, 1, 2], [1.0, 1, 0, 1], [5.0], [2.0, 2, 2], []])
def test_equal_values_share_the_mean_of_their_ranks(values):
    assert ranks(numpy.array(values)).tolist() == _naive_ranks(values)


def test_the_correlation_is_spearmans(scored):
    frame = rank_correlations(scored)
    assert len(frame) == 3 * 2 * 6
    for row in frame.itertuples():
        field = {"head": "heads", "channel": "ffn"}[row.kind]
        a, b = (
            getattr(scored[name].blocks[row.block], field).tolist()
            for name in (row.first, row.second)
        )
        assert row.rank_correlation == pytest.approx(_naive_correlation(a, b))


def test_the_same_order_correlates_by_1_and_the_reverse_by_minus_1(scored):
    scores = random_scores(SMALL_MHA)
    reverse = replace(
        scores, blocks=tuple(replace(b, heads=-b.heads, ffn=-b.ffn) for b in scores.blocks)
    )
    same = replace(scores, blocks=tuple(replace(b, ffn=b.ffn**3) for b in scores.blocks))
    frame = rank_correlations({"a": scores, "same": same, "reverse": reverse})
    by_pair = frame.groupby(["first", "second"])["rank_correlation"]
    assert by_pair.min()["a", "same"] == pytest.approx(1)
    assert by_pair.max()["a", "reverse"] == pytest.approx(-1)


@pytest.mark.parametrize("value", [1.0, math.nan, math.inf])
def test_scores_without_an_order_have_no_correlation(value):
    scores = random_scores(SMALL_MHA)
    flat = replace(
        scores,
        blocks=tuple(replace(b, ffn=torch.full_like(b.ffn, value)) for b in scores.blocks),
    )
    frame = rank_correlations({"a": scores, "flat": flat})
    missing = frame["rank_correlation"].isna()
    assert (missing == (frame["kind"] == "channel")).all()


def test_overlaps_count_what_both_remove(plans):
    frame = overlaps(plans)
    assert len(frame) == 3 * 2 * 6
    for row in frame.itertuples():
        a, b = (_removed(plans[name], row.kind, row.block) for name in (row.first, row.second))
        assert (row.removed_first, row.removed_second) == (len(a), len(b))
        assert row.common == len(a & b)
        if a | b:
            assert row.jaccard == pytest.approx(len(a & b) / len(a | b))
            assert row.share == pytest.approx(len(a & b) / ((len(a) + len(b)) / 2))
        else:
            assert math.isnan(row.jaccard)
            assert math.isnan(row.share)


def test_expected_is_the_mean_over_all_ways_to_remove_as_many():
    units, first, second = 6, 2, 3
    ways = list(itertools.combinations(range(units), second))
    mean = sum(len(set(range(first)) & set(way)) for way in ways) / len(ways)
    whole, heads = tuple(range(96)), tuple(range(8))
    shape = SMALL_MHA.with_blocks((replace(SMALL_MHA.blocks[0], channels=units),))
    a, b = (
        PruningPlan(shape, (BlockPlan(heads, whole[:kept]),))
        for kept in (units - first, units - second)
    )
    row = overlaps({"a": a, "b": b}).query("kind == 'channel'").iloc[0]
    assert row.expected == pytest.approx(mean)
    assert row.share_chance == pytest.approx(2 * mean / (first + second))
    assert row.jaccard_chance == pytest.approx(mean / (first + second - mean))


def test_random_plans_overlap_as_chance_says():
    plans = {str(s): make_plan(random_scores(SMALL_MHA, seed=s), sparsity=0.5) for s in range(12)}
    frame = over_all_blocks(overlaps(plans)).query("kind == 'channel'")
    assert frame["share"].mean() == pytest.approx(frame["share_chance"].mean(), abs=0.01)
    assert frame["share_chance"].mean() == pytest.approx(0.5, abs=0.01)


def test_overall_takes_all_blocks_together(plans):
    overall = over_all_blocks(overlaps(plans))
    assert "block" not in overall
    for row in overall.itertuples():
        a, b = (
            {(n, i) for n in range(6) for i in _removed(plans[name], row.kind, n)}
            for name in (row.first, row.second)
        )
        assert row.common == len(a & b)
        assert row.jaccard == pytest.approx(len(a & b) / len(a | b))


def test_orders_and_plans_are_compared_in_one_frame(scored, plans):
    by_block = compare_criteria({name: (scored[name], plans[name]) for name in scored})
    pandas.testing.assert_frame_equal(by_block.drop(columns="rank_correlation"), overlaps(plans))
    orders = rank_correlations(scored)
    assert by_block["rank_correlation"].tolist() == orders["rank_correlation"].tolist()
    overall = over_all_blocks(by_block)
    means = orders.groupby(["first", "second", "kind"], sort=False)["rank_correlation"].mean()
    assert overall["rank_correlation"].tolist() == pytest.approx(means.tolist())


def test_a_plan_overlaps_wholly_with_itself_and_the_matrix_says_so(plans):
    overall = over_all_blocks(overlaps(plans | {"again": plans["a"]}))
    square = overlap_matrix(overall, "head", "jaccard")
    assert square.loc["a", "again"] == 1
    assert (square.to_numpy() == square.to_numpy().T).all()
    assert list(numpy.diag(square)) == [1] * 4
    row = overall.query("first == 'b' and second == 'c' and kind == 'head'").iloc[0]
    assert square.loc["b", "c"] == row.jaccard


def test_nothing_removed_is_no_overlap_at_all(scored):
    whole = make_plan(scored["a"], sparsity=0)
    frame = overlaps({"a": whole, "b": whole})
    assert frame[["share", "jaccard", "share_chance", "jaccard_chance"]].isna().all(axis=None)
    assert overlap_matrix(over_all_blocks(frame), "head").isna().all(axis=None)


def test_two_plans_differ_by_what_one_keeps_and_the_other_does_not(plans):
    frame = compare_plans(plans["a"], plans["b"])
    assert len(frame) == 2 * 6
    for row in frame.itertuples():
        a, b = (_removed(plans[name], row.kind, row.block) for name in "ab")
        assert set(row.only_first_removes) == a - b
        assert set(row.only_second_removes) == b - a
        assert (row.only_first, row.only_second) == (len(a - b), len(b - a))
        assert row.removed_by_both == len(a & b)
        total = row.kept_by_both + row.removed_by_both + row.only_first + row.only_second
        assert total == (8 if row.kind == "head" else 96)


def test_a_plan_does_not_differ_from_itself(plans):
    frame = compare_plans(plans["a"], plans["a"])
    assert frame[["only_first", "only_second"]].sum().sum() == 0


def test_every_head_is_in_one_class(plans):
    frame = head_classes(plans["a"], plans["b"])
    assert len(frame) == 8 * 6
    for row in frame.itertuples():
        a, b = (row.head in _removed(plans[name], "head", row.block) for name in "ab")
        expected = {(0, 0): 0, (1, 1): 1, (1, 0): 2, (0, 1): 3}[a, b]
        assert row[3] == CLASSES[expected]


@pytest.mark.parametrize("function", [compare_plans, head_classes])
def test_plans_of_models_of_different_shapes_are_refused(function, plans):
    with pytest.raises(InputError, match="different shapes"):
        function(plans["a"], make_plan(random_scores(SMALL_MHA), sparsity=0.3))


def test_scores_of_models_of_different_shapes_are_refused(scored):
    with pytest.raises(InputError, match="different shapes"):
        rank_correlations({"a": scored["a"], "b": random_scores(SMALL_MHA)})
