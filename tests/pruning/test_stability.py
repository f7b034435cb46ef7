"""How far scores and plans depend on the calibration set."""

import itertools

import numpy
import pytest

from bipcore.errors import InputError
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.comparison import rank_correlations
from bipcore.pruning.stability import removal_frame, removals, stability
from tests.helpers.shapes import SMALL_GQA, SMALL_MHA, random_scores


@pytest.fixture
def made():
    scored = {f"seed {seed}": random_scores(SMALL_GQA, seed=seed) for seed in range(3)}
    return {name: (scores, make_plan(scores, sparsity=0.4)) for name, scores in scored.items()}


def _gone(plan, kind, block) -> set[int]:
    keep, was = plan.blocks[block], plan.shape.blocks[block]
    if kind == "head":
        return set(range(was.heads)) - set(keep.heads)
    return set(range(was.channels)) - set(keep.channels)


def test_units_are_counted_as_a_loop_over_them_counts(made):
    between = rank_correlations({name: scores for name, (scores, _) in made.items()})
    for row in stability(made).itertuples():
        sets = [_gone(plan, row.kind, row.block) for _, plan in made.values()]
        assert row.always == len(set.intersection(*sets))
        assert row.never == row.units - len(set.union(*sets))
        assert row.always + row.sometimes + row.never == row.units
        pairs = between.query("kind == @row.kind and block == @row.block")["rank_correlation"]
        assert len(pairs) == len(list(itertools.combinations(made, 2)))
        assert row.rank_correlation == pytest.approx(pairs.mean())
        assert row.least_correlation == pytest.approx(pairs.min())


@pytest.mark.parametrize("kind", ["head", "channel"])
def test_the_share_of_a_unit_is_that_of_the_sets_under_which_it_goes(made, kind):
    for row in removal_frame(made, kind).itertuples():
        times = sum(row.unit in _gone(plan, kind, row.block) for _, plan in made.values())
        assert row.share == times / 3


def test_the_same_set_twice_is_wholly_stable(made):
    one = made["seed 0"]
    frame = stability({"a": one, "b": one})
    assert not frame["sometimes"].any()
    assert numpy.allclose(frame["rank_correlation"], 1)


def test_one_set_or_another_model_is_refused(made):
    with pytest.raises(InputError, match="takes two calibration sets"):
        removals({"a": made["seed 0"]})
    other = random_scores(SMALL_MHA)
    with pytest.raises(InputError, match="shape"):
        stability({"a": made["seed 0"], "b": (other, make_plan(other, sparsity=0.4))})
