"""The axes of charts: logarithmic where it helps, with ticks that can be read."""

import plotly.graph_objects as go
import pytest

from bipcore.views.style import styled


def axis(values):
    return styled(go.Figure(go.Scatter(y=values)), "Block", "Score", log=True).layout.yaxis


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ((7.0, 40.0), (5, 10, 20, 50)),
        ((0.02, 0.9), (0.02, 0.05, 0.1, 0.2, 0.5, 1)),
        ((1.0, 10.0), (1, 2, 5, 10)),
    ],
)
def test_a_short_logarithmic_axis_has_ticks_within_a_decade(values, ticks):
    found = axis(values)
    assert (found.type, found.title.text) == ("log", "Score (log scale)")
    assert found.tickvals == pytest.approx(ticks)
    assert found.ticktext == tuple(f"{tick:g}" for tick in ticks)


def test_a_long_one_has_powers_of_ten():
    found = axis((1e-3, 10.0, 250.0))
    assert (found.type, found.dtick, found.tickvals) == ("log", 1, None)


@pytest.mark.parametrize("values", [(4.0, 7.0), (), (0.0, -1.0)])
def test_where_little_is_spanned_the_axis_is_linear(values):
    found = axis(values)
    assert (found.type, found.title.text) == (None, "Score")
