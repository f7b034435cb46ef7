"""Close-ups as charts and frames: nothing above the diagonal, and no token is markup."""

import torch

from bipcore.evaluation.closeups import HeadCloseUp, Histogram, Promoted, Silenced
from bipcore.pruning.standing import Standing
from bipcore.views.closeups import (
    histogram_chart,
    histogram_frame,
    pattern_chart,
    pattern_frame,
    seen,
    standings_frame,
    strongest_frame,
)

TOKENS = ("<b>", " a", "\n", "%{x}")
PATTERN = torch.tensor(
    [[1.0, 0, 0, 0], [0.25, 0.75, 0, 0], [0.5, 0.25, 0.25, 0], [0.125, 0.5, 0.25, 0.125]]
)
FOUND = HeadCloseUp(TOKENS, PATTERN, 0.3, Promoted((), ()), Silenced(1.0, 0.1, 0.1))


def test_blanks_and_line_ends_of_a_token_are_seen():
    assert [seen(one) for one in (" a", "a ", "  ", "\n", "\t", "a b", "")] == [
        "␣a",
        "a␣",
        "␣␣",
        "⏎",
        "⇥",
        "a b",
        "",
    ]


def test_the_pattern_has_a_share_for_each_position_that_can_be_seen():
    frame = pattern_frame(FOUND)
    assert len(frame) == 10
    assert (frame["attends_to"] <= frame["position"]).all()
    row = frame[(frame["position"] == 3) & (frame["attends_to"] == 1)].iloc[0]
    assert (row["token"], row["its_token"], row["share"]) == ("%{x}", " a", 0.5)
    heat = pattern_chart(FOUND).data[0]
    assert list(heat.z[1]) == [0.25, 0.75, None, None]
    assert "<b>" not in heat.x[0]
    assert "%{x}" not in heat.x[3]
    assert len(set(heat.x)) == 4


def test_the_strongest_attention_leaves_the_first_token_out():
    frame = strongest_frame(FOUND, 2)
    assert frame["share"].tolist() == [0.75, 0.5]
    assert frame["attends_to"].tolist() == ["␣a (1)", "␣a (1)"]


def test_a_histogram_has_a_bar_for_each_count_and_none_where_there_is_nothing():
    found = Histogram.of(torch.tensor([0.0, 0.0, 1.0]))
    frame = histogram_frame(found)
    assert frame["positions"].sum() == 3
    assert (frame["from"].iloc[0], frame["to"].iloc[-1]) == (0, 1)
    bars = histogram_chart(found).data[0]
    assert (bars.y[0], bars.y[1], bars.y[-1]) == (2, None, 1)
    alike = Histogram.of(torch.full((5,), 2.0))
    assert sum(alike.counts) == 5


def test_ranks_are_listed_by_the_title_of_their_criterion():
    frame = standings_frame([Standing("llm-bip", 2.5, 3, 9)])
    assert frame.iloc[0].tolist() == ["LLM-BIP", 2.5, 3, 9]
