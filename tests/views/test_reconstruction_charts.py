"""Charts of reconstruction errors say what the frame says."""

import math

import pytest

from bipcore.evaluation.reconstruction import ReconstructionErrors
from bipcore.views.reconstruction import (
    ERRORS,
    bound_against_error,
    error_by_block,
    reconstruction_frame,
)
from bipcore.views.style import criterion_style

ACCUMULATED = {"llm-bip": (0.1, 0.3, 0.6), "wanda-sp": (0.2, 0.5, 0.9)}
LOCAL = {"llm-bip": (0.1, 0.2, 0.3), "wanda-sp": (0.2, 0.4, 0.6)}
BOUNDS = {"llm-bip": (0.2, 0.1, 0.3), "wanda-sp": (0.0, 0.5, 0.7)}


def _frame(accumulated=ACCUMULATED, local=LOCAL, bounds=BOUNDS):
    errors = {
        name: ReconstructionErrors(accumulated[name], local[name], (2.0,) * len(local[name]))
        for name in accumulated
    }
    return reconstruction_frame(errors, bounds)


def _of_one(*values: float):
    return _frame({"llm-bip": values}, {"llm-bip": values}, {})


@pytest.fixture
def frame():
    return _frame()


@pytest.mark.parametrize("kind", ERRORS)
def test_there_is_a_line_for_every_model_through_all_blocks(frame, kind):
    figure = error_by_block(frame, kind)
    assert [trace.name for trace in figure.data] == ["llm-bip", "wanda-sp"]
    for trace in figure.data:
        rows = frame[frame["model"] == trace.name]
        assert list(trace.x) == [0, 1, 2]
        assert list(trace.y) == rows[kind].tolist()


@pytest.mark.parametrize("kind", ERRORS)
def test_it_has_a_title_named_axes_with_units_and_a_legend(frame, kind):
    layout = error_by_block(frame, kind).layout
    assert layout.title.text.lower().startswith(kind.partition("_")[0])
    assert layout.xaxis.title.text == "Block"
    relative = kind.endswith("_relative")
    assert ("mean |f(X)|" if relative else "hidden-state units") in layout.yaxis.title.text
    assert layout.yaxis.tickformat == (".0%" if relative else None)
    assert layout.showlegend


def test_both_charts_of_a_kind_have_titles_of_their_own(frame):
    assert len({error_by_block(frame, kind).layout.title.text for kind in ERRORS}) == len(ERRORS)


def test_hovering_names_model_block_and_value(frame):
    absolute = error_by_block(frame, "local").data[0].hovertemplate
    relative = error_by_block(frame, "local_relative").data[0].hovertemplate
    assert absolute.startswith("llm-bip, block %{x}: %{y:")
    assert "%{y:.2%}" in relative


@pytest.mark.parametrize("chart", [lambda f: error_by_block(f, "local"), bound_against_error])
def test_a_criterion_looks_as_everywhere(frame, chart):
    for trace, name in zip(chart(frame).data, ("llm-bip", "wanda-sp"), strict=False):
        style = criterion_style(name)
        color = trace.marker.color or trace.line.color
        assert (color, trace.marker.symbol) == (style.color, style.symbol)
        if "lines" in trace.mode:
            assert trace.line.dash == style.dash


def test_a_plan_that_is_no_criterions_is_drawn_too():
    values = {"edited": (0.1, 0.2)}
    figure = error_by_block(_frame(values, values, {}), "local")
    assert figure.data[0].name == "edited"
    assert figure.data[0].line.color == criterion_style("edited").color


@pytest.mark.parametrize(
    ("values", "log"),
    [((0.01, 1.0), False), ((0.009, 1.0), True), ((0.0, 1.0), False), ((0.0, 0.0), False)],
)
def test_the_axis_is_logarithmic_where_the_values_span_two_decades(values, log):
    axis = error_by_block(_of_one(*values), "local").layout.yaxis
    assert (axis.type == "log") == log
    assert ("(log scale)" in axis.title.text) == log


def test_shares_are_never_on_a_logarithmic_axis():
    assert error_by_block(_of_one(0.001, 1.0), "local_relative").layout.yaxis.type is None


def test_the_bound_is_drawn_against_the_error_where_something_was_cut(frame):
    points = bound_against_error(frame).data[1]
    assert list(points.x) == [0.5, 0.7]  # in block 0 nothing was cut
    assert list(points.y) == [0.4, 0.6]
    assert list(points.customdata) == [1, 2]
    assert "block %{customdata}" in points.hovertemplate


def test_the_legend_counts_the_blocks_in_which_the_bound_holds(frame):
    names = [trace.name for trace in bound_against_error(frame).data]
    assert names == [
        "llm-bip: holds in 2 of 3 blocks",
        "wanda-sp: holds in 2 of 2 blocks",
        "error = bound",
    ]


def test_the_diagonal_goes_through_all_points(frame):
    line = bound_against_error(frame).data[-1]
    assert list(line.x) == list(line.y) == [0.1, 0.7]
    assert line.mode == "lines"


def test_both_axes_of_the_bound_are_logarithmic_and_say_so(frame):
    layout = bound_against_error(frame).layout
    assert layout.title.text
    assert layout.showlegend
    for axis in (layout.xaxis, layout.yaxis):
        assert axis.type == "log"
        assert "(log scale)" in axis.title.text
        assert "hidden-state units" in axis.title.text


def test_a_model_without_a_bound_is_not_drawn_against_it():
    bounds = {"llm-bip": BOUNDS["llm-bip"]}
    names = [trace.name for trace in bound_against_error(_frame(bounds=bounds)).data]
    assert not any("wanda-sp" in name for name in names)


@pytest.mark.parametrize("errors", [{}, {"llm-bip": ReconstructionErrors((), (), ())}])
def test_nothing_measured_gives_empty_charts_with_axes(errors):
    frame = reconstruction_frame(errors, {})
    for figure in (error_by_block(frame, "local"), bound_against_error(frame)):
        assert len(figure.data) == 0
        assert figure.layout.xaxis.title.text


def test_where_nothing_was_cut_there_are_flat_lines_and_no_points():
    nothing = {"llm-bip": (0.0, 0.0)}
    frame = _frame(nothing, nothing, nothing)
    assert list(error_by_block(frame, "accumulated_relative").data[0].y) == [0, 0]
    assert len(bound_against_error(frame).data) == 0


def test_a_share_of_nothing_is_a_gap():
    errors = {"llm-bip": ReconstructionErrors((0.0, 0.5), (0.0, 0.5), (0.0, 1.0))}
    first, second = error_by_block(reconstruction_frame(errors), "local_relative").data[0].y
    assert math.isnan(first)
    assert second == 0.5
