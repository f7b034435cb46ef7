"""Charts of reproductions: rows in, plotly figure out. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ..evaluation.profiling import machine
from ..evaluation.reconstruction import ReconstructionErrors
from ..pipeline.provenance import base_name
from ..studies.reproduction.published import comparability, notes, published_rows
from ..studies.reproduction.rows import Row
from ..studies.reproduction.scale import sizes_sentence
from ..studies.reproduction.spec import Reproduction
from .reconstruction import ERRORS, error_by_block, reconstruction_frame
from .report import Section, facts_table, report_html, versions, write_report
from .reproduction_tables import (
    TITLES,
    columns_of,
    comparison_frame,
    points_of,
    readable,
    reference,
    refused,
    sample_sizes,
    title_of,
)
from .style import DENSE_COLOR, criterion_style, styled, words
from .sweep import metric_chart, size_chart, sizes_of, sparsities_of
from .sweep_tables import measured_in, sweep_frame

if TYPE_CHECKING:
    import plotly.graph_objects as go

_AXES = {
    "seconds": "Seconds",
    "params_billion": "Parameters, billions",
    "macs_giga": "MACs of one sentence of 512 tokens, G",
    "latency_seconds": "Latency, seconds",
}


def comparison_chart(spec: Reproduction, frame: pd.DataFrame, name: str) -> go.Figure:
    """One column of a `comparison_frame`, row by row: the published figures, hollow, and the
    measured ones, filled. A published perplexity whose window is not stated is a cross."""
    import plotly.graph_objects as go

    frame = frame[frame["column"] == name]
    model, _ = reference(spec)
    figure = go.Figure()
    stated = frame["window_stated"].eq(True)
    published = f"published, {model}"
    _add(figure, frame[stated], "published", published, "circle-open", DENSE_COLOR)
    unsure = f"{published}, window not stated"
    _add(
        figure, frame[frame["window_stated"].eq(False)], "published", unsure, "x-open", DENSE_COLOR
    )
    colors = [criterion_style(method).color for method in frame["method"]]
    _add(figure, frame, "measured", f"measured, {words(spec.model.name)}", "circle", colors)
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
    for _, name in measured_in(frame):
        if spec.sizes:
            if sizes_of(frame):
                for share in sparsities_of(frame):
                    key = f"{name}-{100 * share:g}"
                    charts[key] = size_chart(frame, sweep, name, share)
        else:
            charts[name] = metric_chart(frame, sweep, name)
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
    """The rows of figure 3 at one sparsity as a `reconstruction_frame`."""
    errors = {row.key.method: ReconstructionErrors(**row.series) for row in rows if row.series}
    found = reconstruction_frame(errors)
    return found.astype(dict.fromkeys(ERRORS, "float64"))


LIMITED = (
    "This was a limited run: it shows that the path works and what comes out of it on the sizes "
    "named here. It is not the benchmark, and its figures are not to be quoted as such."
)


def opening(spec: Reproduction, rows: Sequence[Row]) -> str:
    """What was measured, of which model, on how much."""
    done = sum(not row.error for row in rows)
    counted = "1 row" if done == 1 else f"{done} rows"
    sentence = f"{counted} measured with {base_name(spec.model.name)}. {sizes_sentence(spec)}"
    return f"{sentence} {LIMITED}" if spec.limit is not None else sentence


def report_title(spec: Reproduction) -> str:
    """The report's title."""
    limited = f", limited to {spec.limit}" if spec.limit is not None else ""
    return f"{spec.title} (reproduced with {base_name(spec.model.name)}{limited})"


def reading_notes(spec: Reproduction) -> list[str]:
    """What to know before comparing, as paragraphs."""
    found = [*spec.notes, *(notes(spec.table) if spec.table else ())]
    model, same = reference(spec)
    if model is not None and not same:
        found.insert(
            0,
            f"The published figures are those of {model}; {base_name(spec.model.name)} is another "
            "model, so no difference is taken.",
        )
    if any("@" in column for column in readable_columns(spec)) and spec.table:
        found.append("A question mark: the window of the published perplexity is not stated.")
    return found


def readable_columns(spec: Reproduction) -> list[str]:
    """The columns whose published figures may have an unknown window."""
    return [f"{text.text}@{text.window}" for text in spec.texts]


def comparability_table(spec: Reproduction) -> pd.DataFrame:
    """What each published row of the model may be compared with; empty for a figure."""
    model, _ = reference(spec)
    if model is None:
        return pd.DataFrame(columns=["Row", "May be compared"])
    said: dict[str, list[str]] = {}
    rows = published_rows(spec.table)
    for row in rows[rows["model"] == model].to_dict("records"):
        said.setdefault(comparability(spec.table, row), []).append(_name(row))
    lines = [{"Row": "; ".join(names), "May be compared": text} for text, names in said.items()]
    return pd.DataFrame(lines)


def _name(row: dict) -> str:
    parts = [str(row["method"])] if "method" in row else []
    if row.get("sparsity_percent"):
        parts.append(f"{row['sparsity_percent']} %")
    if row.get("finetuned") == "yes":
        parts.append("tuned")
    return ", ".join(parts) or "dense"


def sections(spec: Reproduction, rows: Sequence[Row]) -> list[Section]:
    """What the report shows, for `write_report`."""
    sizes = sample_sizes(rows)
    found: list[Section] = [
        ("Published and measured", [spec.shows, *([sizes] if sizes else []), readable(spec, rows)])
    ]
    found.append(("How to read this", reading_notes(spec)))
    table = comparability_table(spec)
    if spec.kind == "accuracy" and len(table):
        said = [f"{names}: {text}" for names, text in table.itertuples(index=False)]
        found.append(("Which perplexities may be compared", said))
    if charts := reproduction_charts(spec, rows):
        found.append(("Charts", list(charts.values())))
    if said := refused(rows):
        found.append(("What could not be done", said))
    found.append(("Settings", [facts_table(settings_table(spec))]))
    return [*found, ("Versions", [facts_table(versions())])]


def report_page(spec: Reproduction, rows: Sequence[Row]) -> str:
    """The report as one HTML page."""
    return report_html(report_title(spec), sections(spec, rows), opening=opening(spec, rows))


def write_reproduction_report(path: str | Path, spec: Reproduction, rows: Sequence[Row]) -> None:
    """Write the report; raises InputError where it cannot be written."""
    write_report(path, report_title(spec), sections(spec, rows), opening=opening(spec, rows))


def settings_table(spec: Reproduction) -> dict[str, object]:
    """The settings of a run, worded for people."""
    here, calibration = machine(spec.model.device), spec.calibration
    facts: dict[str, object] = {
        "Model": spec.model.name,
        "Device and type": f"{here['device']}, {here['threads']} threads, {spec.model.dtype}",
        "Calibration": str(calibration),
        "Plans": f"preset {spec.preset}, allocation {spec.allocation}",
    }
    if spec.texts:
        facts["Test texts"] = "; ".join(
            f"{text.text}, window {text.window}, "
            + (f"first {text.max_tokens:,} tokens" if text.max_tokens else "all of it")
            for text in spec.texts
        )
    if spec.tasks is not None:
        rows = "all rows" if spec.tasks.limit is None else f"the first {spec.tasks.limit} rows"
        shots = spec.tasks.num_fewshot
        facts["Tasks"] = f"{', '.join(spec.tasks.tasks)}; {rows}, {shots} examples in the prompt"
    if spec.tuned:
        values = asdict(spec.recovery).items()
        facts["Fine-tuning"] = ", ".join(f"{k.replace('_', ' ')} {_word(v)}" for k, v in values)
    return facts | {"Limit": "none" if spec.limit is None else spec.limit}


def _word(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
