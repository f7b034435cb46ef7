"""Charts of a sweep: its data frame in, plotly figure out. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..criteria import CRITERIA
from ..errors import listed
from ..evaluation.metrics import METRICS, Metric
from ..pipeline.provenance import base_name
from ..settings import PRESETS
from ..specs import PERPLEXITY
from ..studies.points import DENSE, Point, SweepSpec, figures_of, lines, text_names
from .report import Section, facts_table, report_html, versions, write_report
from .style import DENSE_COLOR, Style, criterion_style, styled, words
from .sweep_tables import column, readable, refused, summary, sweep_frame

if TYPE_CHECKING:
    import plotly.graph_objects as go

_PRESET_MARKS = (("longdashdot", "hexagram"), ("longdash", "pentagon"), ("dashdot", "bowtie"))

COSTS = {
    "parameters": ("Parameters, M", 1e-6, ",.2f"),
    "macs": ("MACs, G", 1e-9, ",.2f"),
    "latency": ("Latency, ms", 1e3, ",.1f"),
    "peak_memory": ("Peak memory, MiB", 2.0**-20, ",.0f"),
}
"""Columns of cost: what to call them, the factor to the unit that says so, and their format."""


def sizes_of(frame: pd.DataFrame) -> list[int]:
    """The calibration sizes in a `sweep_frame`, ascending."""
    return sorted(int(size) for size in frame["samples"].dropna().unique())


def sparsities_of(frame: pd.DataFrame) -> list[float]:
    """The sparsities above 0 in a `sweep_frame`, ascending."""
    return sorted({float(value) for value in frame["sparsity"]} - {0.0})


def metric_chart(
    frame: pd.DataFrame,
    spec: SweepSpec,
    text: str,
    samples: int | None = None,
    *,
    metric: Metric = METRICS[PERPLEXITY],
) -> go.Figure:
    """A metric on ``text`` (a name that `text_names` gives) against the realised sparsity.

    A line for each criterion and preset, error bars of one standard deviation over the seeds, and
    the dense model across. ``samples``: of which calibration size, the largest if not given; lines
    that are not calibrated are always there.
    """
    import plotly.graph_objects as go

    samples = samples if samples is not None else _largest(frame, spec)
    values = _finite(_of_size(summary(frame), samples), column(metric.name, text))
    figure = go.Figure()
    for label, rows in _lines(values, spec):
        figure.add_scatter(x=rows["realised"], **_line(label, rows, metric, text))
    _add_dense(figure, values, metric, text)
    described = f"{metric.title} on {_describe(spec, text)}"
    title = f"{described}<br><sup>{_calibrated_on(spec, samples)}</sup>"
    x, wide = "Removed share of the decoder blocks' parameters", _wide(values, metric, text)
    figure = styled(figure, x, metric.heading, log=wide, title=title)
    figure.update_xaxes(tickformat=".0%", rangemode="tozero")
    return _finish(figure)


def size_chart(
    frame: pd.DataFrame,
    spec: SweepSpec,
    text: str,
    sparsity: float,
    *,
    metric: Metric = METRICS[PERPLEXITY],
) -> go.Figure:
    """A metric on ``text`` at one asked ``sparsity`` against the number of calibration samples.

    What is not calibrated is drawn across.
    """
    import plotly.graph_objects as go

    sizes, means = sizes_of(frame), summary(frame)
    values = _finite(means[means["sparsity"].isin([sparsity, 0.0])], column(metric.name, text))
    at = values[values["sparsity"] == sparsity]
    figure = go.Figure()
    for label, rows in _lines(at, spec):
        if rows["samples"].isna().all():
            rows = pd.concat([rows.assign(samples=size) for size in sizes])
        rows = rows.sort_values("samples")
        figure.add_scatter(
            x=[int(size) for size in rows["samples"]], **_line(label, rows, metric, text)
        )
    _add_dense(figure, values, metric, text)
    source = f"{spec.calibration.source}, samples of {spec.calibration.seq_len} tokens"
    title = (
        f"{metric.title} on {_describe(spec, text)}, {100 * sparsity:g} % of the blocks asked for"
        f"<br><sup>calibrated on {source}{_seeds(spec)}</sup>"
    )
    x, wide = "Calibration samples (log scale)", _wide(values, metric, text)
    figure = styled(figure, x, metric.heading, log=wide, title=title)
    figure.update_xaxes(type="log", tickvals=sizes, ticktext=[str(size) for size in sizes])
    return _finish(figure)


def cost_chart(frame: pd.DataFrame, spec: SweepSpec) -> go.Figure:
    """Parameters and MACs, and where they were measured latency and peak memory, against the
    realised sparsity; of the largest calibration size."""
    from plotly.subplots import make_subplots

    means = _of_size(summary(frame), _largest(frame, spec))
    costs = {name: how for name, how in COSTS.items() if means[name].notna().any()}
    titles = [title for title, _, _ in costs.values()]
    figure = make_subplots(rows=len(costs) // 2, cols=2, subplot_titles=titles)
    groups = [*_lines(means, spec), (DENSE, means[means["label"] == DENSE])]
    for index, (name, (title, factor, form)) in enumerate(costs.items()):
        place = {"row": index // 2 + 1, "col": index % 2 + 1}
        for label, rows in groups:
            style = _style(label, rows)
            figure.add_scatter(
                x=rows["realised"],
                y=rows[name].astype(float) * factor,
                mode="markers" if label == DENSE else "lines+markers",
                name=_name(label),
                legendgroup=label,
                showlegend=index == 0,
                line={"color": style.color, "dash": style.dash},
                marker={"color": style.color, "symbol": style.symbol, "size": 8},
                hovertemplate=f"{_name(label)}, %{{x:.1%}} removed: %{{y:{form}}}<extra></extra>",
                **place,
            )
        figure.update_yaxes(title=title, rangemode="tozero", **place)
        figure.update_xaxes(title="Removed share of the blocks", tickformat=".0%", **place)
    tokens = int(means["seq_len"].max()) if len(means) else 0
    return _cost_layout(
        figure, f"Cost of {words(spec.model.name)}, at {tokens} tokens", len(costs) // 2
    )


def _cost_layout(figure: go.Figure, title: str, rows: int) -> go.Figure:
    height = 160 + 280 * rows
    figure.update_layout(
        template="plotly_white",
        title={"text": title, "font_size": 15, "x": 0, "y": 1 - 15 / height, "yanchor": "top"},
        height=height,
        margin={"l": 60, "r": 20, "t": 130, "b": 50},
        legend={"orientation": "h", "yanchor": "bottom", "y": 1 + 40 / (height - 180), "x": 0},
    )
    return figure


def _largest(frame: pd.DataFrame, spec: SweepSpec) -> int | None:
    """The largest calibration size that there are points of, else that there will be."""
    if any(line.calibrated for line in lines(spec)):
        return max(sizes_of(frame) or spec.samples)
    return None


def _of_size(means: pd.DataFrame, samples: int | None) -> pd.DataFrame:
    """What was calibrated on so many samples, or not calibrated."""
    return means[(means["samples"] == samples).fillna(False) | means["samples"].isna()]


def _lines(values: pd.DataFrame, spec: SweepSpec) -> list[tuple[str, pd.DataFrame]]:
    """The lines that have points, in the order of the spec."""
    found = [(line.label, values[values["label"] == line.label]) for line in lines(spec)]
    return [(label, rows.sort_values("realised")) for label, rows in found if len(rows)]


def _line(label: str, rows: pd.DataFrame, metric: Metric, text: str) -> dict:
    """The scatter's settings for one line; its x is the caller's."""
    style, name = _style(label, rows), column(metric.name, text)
    spread, form = rows[f"{name}_std"], f",.{metric.decimals + 1}f"
    has_spread = bool(spread.notna().any())
    data = [
        [
            100 * row["sparsity"],
            100 * row["realised"],
            _spread(row[f"{name}_std"], row["seeds"], form),
        ]
        for row in rows.to_dict("records")
    ]
    return {
        "y": rows[name],
        "customdata": data,
        "mode": "lines+markers",
        "name": _name(label),
        "line": {"color": style.color, "dash": style.dash},
        "marker": {"color": style.color, "symbol": style.symbol, "size": 9},
        "error_y": {"array": spread.fillna(0.0), "visible": has_spread, "thickness": 1.5},
        "hovertemplate": f"<b>{_name(label)}</b>: %{{y:{form}}}%{{customdata[2]}}<br>"
        "asked %{customdata[0]:.3g} %, removed %{customdata[1]:.2f} %<extra></extra>",
    }


def _spread(deviation: float, seeds: int, form: str) -> str:
    return "" if pd.isna(deviation) else f" ± {deviation:{form}} ({seeds} seeds)"


def _add_dense(figure: go.Figure, values: pd.DataFrame, metric: Metric, text: str) -> None:
    """The dense model's figure as a line across, with a place in the legend."""
    dense = values[values["label"] == DENSE]
    if dense.empty:
        return
    value = float(dense[column(metric.name, text)].iloc[0])
    said = metric.say(value, grouped=True)
    line = {"color": DENSE_COLOR, "dash": "dash", "width": 1.5}
    figure.add_hline(y=value, line=line)
    figure.add_scatter(x=[None], y=[None], mode="lines", name=f"dense: {said}", line=line)


def _style(label: str, rows: pd.DataFrame) -> Style:
    """A criterion's own; a preset has its criterion's colour, and dash and symbol of its own."""
    if label == DENSE or label in CRITERIA:
        return criterion_style(label)
    order = list(PRESETS).index(label) if label in PRESETS else 0
    marks = _PRESET_MARKS[order % len(_PRESET_MARKS)]
    return Style(criterion_style(rows["criterion"].iloc[0]).color, *marks)


def _name(label: str) -> str:
    if label in CRITERIA:
        return CRITERIA[label].title
    return "dense" if label == DENSE else f"preset {label}"


def _finite(means: pd.DataFrame, name: str) -> pd.DataFrame:
    """Without the points whose figure in the column ``name`` is no number that can be drawn."""
    values = means[name] if name in means else pd.Series(float("nan"))
    return means[values.map(math.isfinite)] if len(means) else means


def _wide(values: pd.DataFrame, metric: Metric, text: str) -> bool:
    """Whether the figures span more than a decade."""
    if values.empty:
        return False
    shown = values[column(metric.name, text)]
    return bool(shown.min() > 0 and shown.max() / shown.min() > 10)


def _describe(spec: SweepSpec, text: str) -> str:
    evaluation = text_names(spec.texts)[text]
    tokens = f", first {evaluation.max_tokens:,} tokens" if evaluation.max_tokens else ""
    return words(f"{text} (window {evaluation.window}{tokens}), {spec.model.name}")


def _calibrated_on(spec: SweepSpec, samples: int | None) -> str:
    if samples is None:
        return "nothing is calibrated"
    calibration = spec.calibration
    size = f"{samples} × {calibration.seq_len} tokens"
    return f"calibrated on {words(calibration.source)}, {size}{_seeds(spec)}"


def _seeds(spec: SweepSpec) -> str:
    seeds = ", ".join(map(str, dict.fromkeys(spec.seeds)))
    return f", seeds {seeds}" if len(set(spec.seeds)) > 1 else f", seed {seeds}"


def _finish(figure: go.Figure) -> go.Figure:
    """Room for a title of two lines above the legend."""
    return figure.update_layout(height=450, margin_t=110, title_y=0.97, title_yanchor="top")


def opening(spec: SweepSpec) -> str:
    """One sentence: what was measured, of which model, on which texts."""
    texts = listed(
        f"{name} (window {text.window}, "
        + (f"first {text.max_tokens:,} tokens)" if text.max_tokens else "all of it)")
        for name, text in text_names(spec.texts).items()
    )
    titles = dict.fromkeys(metric.title for metric, _ in figures_of(spec))
    shares = listed(f"{100 * sparsity:g} %" for sparsity in sorted(set(spec.sparsities)))
    sentence = (
        f"{listed(titles)} of {base_name(spec.model.name)} on {texts}, after "
        f"{listed(_title(line.label) for line in lines(spec))} removed {shares} of the parameters "
        "of its decoder blocks"
    )
    if any(line.calibrated for line in lines(spec)):
        sizes, seeds = sorted(set(spec.samples)), list(dict.fromkeys(spec.seeds))
        calibration = spec.calibration
        sentence += (
            f", calibrated on {calibration.source} with {listed(map(str, sizes))} samples of "
            f"{calibration.seq_len} tokens, {'seeds' if len(seeds) > 1 else 'seed'} "
            f"{listed(map(str, seeds))}"
        )
    return sentence + "."


def sweep_title(spec: SweepSpec) -> str:
    """The report's title."""
    return f"Pruning sweep of {base_name(spec.model.name)}"


def sections(spec: SweepSpec, points: Iterable[Point]) -> list[Section]:
    """What the report shows, for `write_report`."""
    frame = sweep_frame(points)
    found: list[Section] = []
    for metric, name in figures_of(spec):
        parts: list = [metric_chart(frame, spec, name, metric=metric)]
        if len(sizes_of(frame)) > 1:
            shares = sparsities_of(frame)
            parts += [size_chart(frame, spec, name, s, metric=metric) for s in shares]
        found.append((f"{metric.title} on {name}", parts))
    found.append(("Cost", [cost_chart(frame, spec), _cost_note(spec)]))
    table = (
        "Means over the seeds, ± one sample standard deviation where there are several. "
        "Asked is the share of the blocks' parameters that was asked for; gone is what the plan "
        "removes, of the blocks and of the whole model."
    )
    found.append(("All figures", [table, readable(frame, spec)]))
    if notes := refused(frame):
        found.append(("What could not be done", notes))
    found.append(("Settings", [facts_table(_settings(spec))]))
    return [*found, ("Versions", [facts_table(versions())])]


def sweep_html(spec: SweepSpec, points: Sequence[Point]) -> str:
    """The report as one HTML page."""
    return report_html(sweep_title(spec), sections(spec, points), opening=opening(spec))


def write_sweep_report(path: str | Path, spec: SweepSpec, points: Sequence[Point]) -> None:
    """Write the report; raises InputError where it cannot be written."""
    write_report(path, sweep_title(spec), sections(spec, points), opening=opening(spec))


def _cost_note(spec: SweepSpec) -> str:
    note = "Parameters and MACs are counted from the widths, without the biases of a compensation."
    if spec.profile:
        note += (
            " Latency is the median of five forward passes over one sequence; peak memory is the "
            "model's weights and what such a pass adds to the memory in use."
        )
    return note


def _settings(spec: SweepSpec) -> dict[str, object]:
    calibration = spec.calibration
    plan = {k: v for k, v in asdict(spec.plan).items() if k not in ("sparsity", "source")}
    return {
        "Model": spec.model.name,
        "Device and type": f"{spec.model.device}, {spec.model.dtype}",
        "Criteria": ", ".join(spec.criteria),
        "Presets": ", ".join(spec.presets) or "none",
        "Sparsities": ", ".join(f"{100 * s:g} %" for s in spec.sparsities),
        "Calibration": f"{calibration.source}, samples of {calibration.seq_len} tokens",
        "Calibration sizes": ", ".join(map(str, spec.samples)),
        "Seeds": ", ".join(map(str, spec.seeds)),
        "Plan": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in plan.items()),
    }


def _title(label: str) -> str:
    return CRITERIA[label].title if label in CRITERIA else f"the preset {label}"
