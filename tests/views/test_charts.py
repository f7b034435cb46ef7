"""Charts say what the scores and the plan say."""

import pytest
import torch

from bipcore import CalibrationSet, collect_statistics, make_plan, score
from bipcore.views import scores as charts
from tests.helpers.tiny import tiny_model, tiny_tokens


@pytest.fixture(scope="module")
def scored():
    model = tiny_model("mistral")
    statistics = collect_statistics(model, CalibrationSet.from_tokens(tiny_tokens()))
    scores = score(model, statistics, "llm-bip")
    return scores, make_plan(scores, sparsity=0.5)


def trace(figure, kind: str, word: str = ""):
    """The first trace of a kind whose name has the word."""
    return next(t for t in figure.data if t.type == kind and word in (t.name or ""))


@pytest.mark.parametrize(
    "chart", [charts.channel_distributions, charts.head_distributions, charts.head_map]
)
def test_axes_are_titled_and_there_is_a_legend(chart, scored):
    layout = chart(*scored).layout
    assert layout.xaxis.title.text
    assert layout.yaxis.title.text
    assert layout.showlegend


def test_the_boxes_are_the_quartiles_and_the_cut_separates_kept_from_removed(scored):
    scores, plan = scored
    figure = charts.channel_distributions(scores, plan)
    box, cuts = trace(figure, "box"), trace(figure, "scatter", "cut")
    for index, (block, keep) in enumerate(zip(scores.blocks, plan.blocks, strict=True)):
        assert box.median[index] == pytest.approx(float(block.ffn.quantile(0.5)))
        kept = block.ffn[list(keep.channels)]
        assert cuts.y[index] <= float(kept.min())
        assert int((block.ffn <= cuts.y[index]).sum()) == len(block.ffn) - len(keep.channels)


def test_nothing_removed_gives_no_cut(scored):
    scores, _ = scored
    figure = charts.channel_distributions(scores, make_plan(scores, sparsity=0))
    assert set(trace(figure, "scatter", "cut").y) == {None}


def test_every_head_is_drawn_once_in_the_colour_of_its_fate(scored):
    scores, plan = scored
    figure = charts.head_distributions(scores, plan)
    kept, removed = trace(figure, "scatter", "kept"), trace(figure, "scatter", "removed")
    assert kept.marker.color == charts.KEPT
    assert removed.marker.color == charts.REMOVED
    drawn = set(zip(removed.x, removed.customdata, strict=True))
    expected = {
        (number, head)
        for number, keep in enumerate(plan.blocks)
        for head in set(range(8)) - set(keep.heads)
    }
    assert drawn == expected
    assert len(kept.x) + len(removed.x) == 8 * len(scores.blocks)


def test_the_map_has_each_head_of_each_block_and_crosses_the_removed(scored):
    scores, plan = scored
    figure = charts.head_map(scores, plan)
    shares = torch.tensor([list(row) for row in trace(figure, "heatmap").z])  # (H, blocks)
    assert shares.shape == (8, len(scores.blocks))
    torch.testing.assert_close(shares.sum(0), torch.ones(len(scores.blocks)))
    crosses = trace(figure, "scatter", "removed")
    assert len(crosses.x) == sum(8 - len(keep.heads) for keep in plan.blocks)


def test_the_histogram_counts_kept_and_removed_channels(scored):
    scores, plan = scored
    figure = charts.channel_histogram(scores, plan, 1)
    kept, removed = trace(figure, "histogram", "kept"), trace(figure, "histogram", "removed")
    assert len(kept.x) == len(plan.blocks[1].channels)
    assert len(kept.x) + len(removed.x) == len(scores.blocks[1].ffn)
    assert max(removed.x) <= min(kept.x)
