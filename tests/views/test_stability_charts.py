"""The charts of how far scores depend on the calibration set."""

import numpy
import pytest

from bipcore.pruning.choosing import make_plan
from bipcore.pruning.stability import removal_frame, stability
from bipcore.views.stability import removal_map, stability_chart
from tests.helpers.shapes import SMALL_GQA, random_scores


@pytest.fixture
def made():
    scored = {f"seed {seed}": random_scores(SMALL_GQA, seed=seed) for seed in range(3)}
    return {name: (scores, make_plan(scores, sparsity=0.5)) for name, scores in scored.items()}


@pytest.mark.parametrize("kind", ["head", "channel"])
def test_the_lines_are_the_figures_of_the_frame(made, kind):
    frame = stability(made)
    rows = frame[frame["kind"] == kind]
    mean, least, share = stability_chart(frame, kind).data
    assert list(mean.y) == list(rows["rank_correlation"])
    assert list(least.y) == list(rows["least_correlation"])
    gone = rows["always"] + rows["sometimes"]
    assert numpy.allclose(share.y, rows["always"] / gone)


def test_the_map_has_a_cell_for_every_head(made):
    shares = removal_frame(made, "head")
    (drawn,) = removal_map(shares).data
    for row in shares.itertuples():
        assert drawn.z[row.unit][row.block] == row.share
