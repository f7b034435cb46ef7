"""Charts of a sweep say what its points say."""

import math

import pytest

from bipcore.specs import EvaluationSpec
from bipcore.studies.points import DENSE, Point, SweepSpec
from bipcore.views.style import criterion_style
from bipcore.views.sweep import cost_chart, metric_chart, size_chart
from bipcore.views.sweep_tables import sweep_frame

SPEC = SweepSpec(
    criteria=("magnitude", "llm-bip"),
    sparsities=(0.2, 0.5),
    seeds=(0, 1),
    samples=(8, 32),
    texts=(EvaluationSpec("wikitext2", 1024, 8192),),
    presets=("recommended",),
)


def point(label: str, sparsity: float, value: float, **more) -> Point:
    """A point with perplexity ``value``; it removes a bit less than was asked for."""
    facts = {"criterion": "flap" if label == "recommended" else label, "seq_len": 512}
    facts |= {"realised": 0.99 * sparsity, "realised_total": 0.8 * sparsity}
    facts |= {"parameters": int(1e8 * (1 - sparsity)), "macs": int(5e10 * (1 - sparsity))}
    return Point(label=label, sparsity=sparsity, perplexity={"wikitext2": value}, **(facts | more))


def points(top: float = 90.0) -> list[Point]:
    found = [point(DENSE, 0.0, 20.0), point("magnitude", 0.2, 60.0), point("magnitude", 0.5, top)]
    for seed in (0, 1):
        for samples in (8, 32):
            for label, sparsity, value in (
                ("llm-bip", 0.2, 25.0),
                ("llm-bip", 0.5, 50.0),
                ("recommended", 0.2, 24.0),
            ):
                place = {"seed": seed, "samples": samples}
                found.append(point(label, sparsity, value + seed + 8 / samples, **place))
    return found


def traces(figure) -> dict:
    return {trace.name: trace for trace in figure.data}


def test_each_criterion_is_a_line_over_the_realised_sparsity_with_error_bars():
    lines = traces(metric_chart(sweep_frame(points()), SPEC, "wikitext2"))
    line = lines["LLM-BIP"]
    assert list(line.x) == pytest.approx([0.198, 0.495])
    assert list(line.y) == pytest.approx([25.75, 50.75])
    assert list(line.error_y.array) == pytest.approx([math.sqrt(0.5)] * 2)
    assert line.error_y.visible
    assert not lines["Magnitude"].error_y.visible


def test_lines_come_in_the_order_of_the_spec_then_the_dense_model():
    names = list(traces(metric_chart(sweep_frame(points()), SPEC, "wikitext2")))
    assert names == ["Magnitude", "LLM-BIP", "preset recommended", "dense: 20.00"]


def test_another_calibration_size_is_shown_on_request():
    lines = traces(metric_chart(sweep_frame(points()), SPEC, "wikitext2", 8))
    assert list(lines["LLM-BIP"].y) == pytest.approx([26.5, 51.5])
    assert list(lines["Magnitude"].y) == [60.0, 90.0]


def test_the_dense_model_is_a_line_across():
    figure = metric_chart(sweep_frame(points()), SPEC, "wikitext2")
    (across,) = figure.layout.shapes
    assert (across.y0, across.y1) == (20.0, 20.0)


@pytest.mark.parametrize(("top", "kind"), [(90.0, "-"), (1e7, "log")])
def test_the_axis_is_logarithmic_where_the_values_span_more_than_a_decade(top, kind):
    figure = metric_chart(sweep_frame(points(top)), SPEC, "wikitext2")
    assert (figure.layout.yaxis.type or "-") == kind
    assert ("log scale" in figure.layout.yaxis.title.text) == (kind == "log")


def test_the_title_names_text_window_tokens_and_calibration():
    title = metric_chart(sweep_frame(points()), SPEC, "wikitext2").layout.title.text
    for word in ("wikitext2", "window 1024", "8,192 tokens", "builtin, 32 × 256", "seeds 0, 1"):
        assert word in title


def test_styles_are_those_of_the_criterion_and_a_preset_has_marks_of_its_own():
    lines = traces(metric_chart(sweep_frame(points()), SPEC, "wikitext2"))
    style = criterion_style("llm-bip")
    line = lines["LLM-BIP"]
    assert (line.line.color, line.line.dash) == (style.color, style.dash)
    assert line.marker.symbol == style.symbol
    preset, own = lines["preset recommended"], criterion_style("flap")
    assert preset.line.color == own.color
    assert preset.line.dash != own.dash


def test_perplexities_that_are_infinite_are_left_out():
    lines = traces(metric_chart(sweep_frame(points(math.inf)), SPEC, "wikitext2"))
    assert list(lines["Magnitude"].y) == [60.0]


def test_the_dense_model_alone_is_a_chart():
    frame = sweep_frame(points()[:1])
    assert list(traces(metric_chart(frame, SPEC, "wikitext2"))) == ["dense: 20.00"]
    assert len(cost_chart(frame, SPEC).data) == 2


def test_a_chart_against_the_calibration_size_draws_what_is_not_calibrated_across():
    figure = size_chart(sweep_frame(points()), SPEC, "wikitext2", 0.2)
    lines = traces(figure)
    assert list(lines["LLM-BIP"].x) == [8, 32]
    assert list(lines["LLM-BIP"].y) == pytest.approx([26.5, 25.75])
    assert list(lines["Magnitude"].x) == [8, 32]
    assert list(lines["Magnitude"].y) == [60.0, 60.0]
    assert figure.layout.xaxis.type == "log"
    assert "20 %" in figure.layout.title.text


def test_costs_that_were_not_measured_are_not_drawn():
    titles = [note.text for note in cost_chart(sweep_frame(points()), SPEC).layout.annotations]
    assert titles == ["Parameters, M", "MACs, G"]


def test_costs_are_drawn_in_their_units():
    measured = {"latency": 0.25, "tokens_per_second": 2048.0, "peak_memory": 2**30}
    frame = sweep_frame([point(DENSE, 0.0, 20.0), point("magnitude", 0.5, 30.0, **measured)])
    figure = cost_chart(frame, SPEC)
    assert len(figure.layout.annotations) == 4
    values = [list(trace.y) for trace in figure.data if trace.name == "Magnitude"]
    assert values == [[50.0], [25.0], [250.0], [1024.0]]


def test_axes_are_titled_and_there_is_a_legend():
    frame = sweep_frame(points())
    for figure in (
        metric_chart(frame, SPEC, "wikitext2"),
        size_chart(frame, SPEC, "wikitext2", 0.2),
        cost_chart(frame, SPEC),
    ):
        assert figure.layout.xaxis.title.text
        assert figure.layout.yaxis.title.text
        assert figure.layout.title.text
        assert figure.layout.showlegend is not False
        assert any(trace.showlegend is not False for trace in figure.data)
