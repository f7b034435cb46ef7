"""Charts of reproductions: rows in, plotly figure out. Pure functions."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from ..evaluation.reconstruction import ReconstructionErrors
from ..studies.reproduction.rows import Row
from ..studies.reproduction.spec import Reproduction
from .frames import ERRORS, reconstruction_frame
from .reconstruction import error_by_block
from .reproduction_tables import (
    TITLES,
    columns_of,
    comparison_frame,
    points_of,
    reference,
    title_of,
)
from .scores import styled
from .style import DENSE, criterion_style
from .sweep import perplexity_chart, size_chart, sizes_of, sparsities_of
from .sweep_tables import sweep_frame, texts_of

_AXES = {
    "seconds": "Seconds",
    "params_billion": "Parameters, billions",
    "macs_giga": "MACs of one sentence of 512 tokens, G",
    "latency_seconds": "Latency, seconds",
}


def comparison_chart(spec: Reproduction, frame: pd.DataFrame, name: str) -> go.Figure:
    """One column of a `comparison_frame`, row by row: the published figures, hollow, and the
    measured ones, filled. A published perplexity whose window is not stated is a cross."""
    frame = frame[frame["column"] == name]
    model, _ = reference(spec)
    figure = go.Figure()
    stated = frame["window_stated"].eq(True)
    published = f"published, {model}"
    _add(figure, frame[stated], "published", published, "circle-open", DENSE)
    unsure = f"{published}, window not stated"
    _add(figure, frame[frame["window_stated"].eq(False)], "published", unsure, "x-open", DENSE)
    colors = [criterion_style(method).color for method in frame["method"]]
    _add(figure, frame, "measured", f"measured, {spec.model.name}", "circle", colors)
    drawn = pd.concat([frame["published"], frame["measured"]]).dropna()
    wide = len(drawn) > 0 and drawn.min() > 0 and drawn.max() > 10 * drawn.min()
    perplexity = "@" in name
    x = "Perplexity" if perplexity else _AXES.get(name, "Accuracy, %")
    title = f"{title_of(name)}<br><sup>{'lower' if _less(name) else 'higher'} is better</sup>"
    styled(figure, f"{x} (log scale)" if wide else x, "", title=title)
    if wide:
        step = "D2" if drawn.max() < 1000 * drawn.min() else 1
        figure.update_xaxes(type="log", exponentformat="none", dtick=step)
    labels = frame["row"].tolist()
    figure.update_yaxes(
        categoryorder="array", categoryarray=labels[::-1], range=[-0.6, len(labels)]
    )
    inside = 24 * len(labels) + 30
    height = inside + 170
    figure.update_layout(
        height=height,
        margin={"t": 120, "b": 50},
        title_y=1 - 12 / height,
        legend_y=1 + 12 / inside,
    )
    return figure


def _less(name: str) -> bool:
    return "@" in name or name in _AXES


def _add(figure: go.Figure, rows: pd.DataFrame, kind: str, name: str, symbol: str, color) -> None:
    """The points of one kind, where there are any."""
    there = rows[kind].notna()
    if not there.any():
        return
    if isinstance(color, list):
        color = [one for one, has in zip(color, there, strict=True) if has]
    rows = rows[there]
    figure.add_scatter(
        x=rows[kind],
        y=rows["row"],
        mode="markers",
        name=name,
        marker={"symbol": symbol, "size": 10, "color": color, "line_width": 2},
        hovertemplate=f"<b>%{{y}}</b>, {name}: %{{x:,.4g}}<extra></extra>",
    )


def reproduction_charts(spec: Reproduction, rows: Sequence[Row]) -> dict[str, go.Figure]:
    """The charts of what there is of a table or a figure, by a short name; a figure of which
    nothing was measured has none."""
    done = [row for row in rows if not row.error]
    if spec.kind == "sweep":
        return _sweep_charts(spec, rows) if done else {}
    if spec.kind == "reconstruction":
        return _error_charts(done)
    names = columns_of(spec)
    if spec.kind == "accuracy":  # one of each kind: all others are in the table
        names = [name for name in names if "@" in name or name == "average"]
    frame = comparison_frame(spec, rows)
    return {name: comparison_chart(spec, frame, name) for name in names}


def chart_title(name: str) -> str:
    """What people call a chart of `reproduction_charts`: "wikitext2-128-20" becomes "WikiText-2,
    window 128, 20 %"."""
    if "@" in name or name in TITLES:
        return title_of(name)
    text, *rest = name.split("-")
    words = [f"window {one}" if one in ("128", "2048") else f"{one} %" for one in rest]
    return ", ".join([TITLES.get(text, text), *words])


def _sweep_charts(spec: Reproduction, rows: Sequence[Row]) -> dict[str, go.Figure]:
    frame, sweep = sweep_frame(points_of(spec, rows)), spec.sweep
    charts = {}
    for name in texts_of(frame):
        if spec.sizes:
            if sizes_of(frame):
                for share in sparsities_of(frame):
                    key = f"{name}-{100 * share:g}"
                    charts[key] = size_chart(frame, sweep, name, share)
        else:
            charts[name] = perplexity_chart(frame, sweep, name)
    return charts


def _error_charts(rows: Sequence[Row]) -> dict[str, go.Figure]:
    """Figure 3: of every sparsity the accumulated and the local errors."""
    charts = {}
    for sparsity in sorted({row.key.sparsity for row in rows}):
        frame = error_frame([row for row in rows if row.key.sparsity == sparsity])
        for kind in ("accumulated", "local"):
            figure = error_by_block(frame, kind)
            text = f"{figure.layout.title.text}, {100 * sparsity:g} % of the blocks gone"
            charts[f"{kind}-{100 * sparsity:g}"] = figure.update_layout(title_text=text)
    return charts


def error_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The rows of figure 3 at one sparsity as a `frames.reconstruction_frame`."""
    errors = {row.key.method: ReconstructionErrors(**row.series) for row in rows if row.series}
    found = reconstruction_frame(errors)
    return found.astype(dict.fromkeys(ERRORS, "float64"))
