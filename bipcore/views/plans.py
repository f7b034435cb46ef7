"""Charts of plans, and of where criteria agree: data frames in, plotly figures out. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy
import pandas as pd

from ..criteria import CRITERIA
from ..pruning.comparison import CLASSES, removed_masks
from ..pruning.plan import PruningPlan
from .style import DENSE_COLOR, KEPT, PRUNED_COLOR, REMOVED, SCALE, criterion_style, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

UNIT_NAMES = {"head": "query heads", "channel": "FFN channels"}

Parts = Sequence[tuple[float, float]]
"""Of every block what the removed heads and what the removed FFN channels add."""

_FIRST, _SECOND = "#CC79A7", "#E69F00"
_CLASS_STYLES = (
    (KEPT, "square", ""),
    (REMOVED, "x", "x"),
    (_FIRST, "triangle-left", "\\"),
    (_SECOND, "triangle-right", "/"),
)
"""Colour, symbol and bar pattern of each of `CLASSES`."""


def _title(name: str) -> str:
    return CRITERIA[name].title if name in CRITERIA else name


def pairs_with(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The rows of a frame of pairs that are about ``name``; column other is the other one."""
    rows = frame[(frame["first"] == name) | (frame["second"] == name)]
    other = rows["first"].where(rows["second"] == name, rows["second"])
    return rows.assign(other=other)


def rank_correlation_chart(by_block: pd.DataFrame, reference: str, kind: str) -> go.Figure:
    """Rank correlation with ``reference`` against the block, a line for each other criterion.

    ``by_block``: the frame of `compare_criteria`. ``kind``: "head" or "channel".
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for other, rows in _lines(by_block, reference, kind):
        figure.add_scatter(
            x=rows["block"],
            y=rows["rank_correlation"],
            **_line(other),
            hovertemplate=f"{_title(other)}, block %{{x}}: %{{y:.4f}}<extra></extra>",
        )
    title = f"Order of the {UNIT_NAMES[kind]}, against {_title(reference)}"
    styled(figure, "Block", "Spearman's rank correlation", title=title)
    return figure.update_yaxes(range=[-1.05, 1.05])


def overlap_chart(
    by_block: pd.DataFrame, reference: str, kind: str, measure: str = "share"
) -> go.Figure:
    """What is removed in common with ``reference``, against the block; dotted what chance gives.

    ``measure``: "share" or "jaccard", of the frame of `overlaps`.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    for number, (other, rows) in enumerate(_lines(by_block, reference, kind)):
        figure.add_scatter(
            x=rows["block"],
            y=rows[measure],
            customdata=rows[["common", "removed_first", "removed_second", f"{measure}_chance"]],
            **_line(other),
            hovertemplate=f"{_title(other)}, block %{{x}}: %{{y:.1%}}, by chance "
            "%{customdata[3]:.1%}<br>%{customdata[0]} in common of %{customdata[1]} and "
            "%{customdata[2]}<extra></extra>",
        )
        figure.add_scatter(
            x=rows["block"],
            y=rows[f"{measure}_chance"],
            mode="lines",
            name="by chance",
            legendgroup="chance",
            showlegend=number == 0,
            line={"color": DENSE_COLOR, "dash": "dot", "width": 2},
            hoverinfo="skip",
        )
    title = f"Removed {UNIT_NAMES[kind]} in common with {_title(reference)}"
    names = {"share": "Share of those removed", "jaccard": "Share of those either removes"}
    styled(figure, "Block", names[measure], title=title)
    return figure.update_yaxes(range=[-0.03, 1.03], tickformat=".0%")


def _lines(by_block: pd.DataFrame, reference: str, kind: str):
    rows = pairs_with(by_block[by_block["kind"] == kind], reference)
    return rows.groupby("other", sort=False)


def _line(name: str) -> dict:
    style = criterion_style(name)
    return {
        "mode": "lines+markers",
        "name": _title(name),
        "line": {"color": style.color, "dash": style.dash},
        "marker": {"symbol": style.symbol, "size": 7},
    }


def overlap_matrix_chart(square: pd.DataFrame, kind: str) -> go.Figure:
    """The overlaps of all pairs, as `overlap_matrix` gives them."""
    import plotly.graph_objects as go

    names = [_title(name) for name in square.index]
    values = square.to_numpy()
    figure = go.Figure(
        go.Heatmap(
            x=names,
            y=names,
            z=values,
            zmin=0,
            zmax=1,
            text=[["–" if v != v else f"{v:.0%}" for v in row] for row in values],
            texttemplate="%{text}",
            colorscale=SCALE,
            colorbar={"title": "removed<br>in common", "tickformat": ".0%"},
            hovertemplate="%{y} and %{x}: %{z:.2%}<extra></extra>",
            xgap=1,
            ygap=1,
        )
    )
    title = f"Removed {UNIT_NAMES[kind]} in common, all blocks"
    styled(figure, "Criterion", "Criterion", title=title)
    return figure.update_yaxes(autorange="reversed").update_layout(showlegend=False)


def class_map(classes: pd.DataFrame, first: str, second: str) -> go.Figure:
    """Blocks × heads: what two plans do with each head, by the frame of `head_classes`."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for name, (color, symbol, _) in zip(CLASSES, _CLASS_STYLES, strict=True):
        rows = classes[classes["class"] == name]
        label = _class_label(name, first, second)
        figure.add_scatter(
            x=rows["block"],
            y=rows["head"],
            mode="markers",
            name=f"{label} ({len(rows)})",
            showlegend=True,
            marker={"color": color, "symbol": symbol, "size": _marker_size(classes)},
            hovertemplate=f"block %{{x}}, head %{{y}}: {label}<extra></extra>",
        )
    return _roomy(styled(figure, "Block", "Query head", title="What goes of the attention"))


def _class_label(name: str, first: str, second: str) -> str:
    """One of `CLASSES` with the names of the two."""
    return {
        CLASSES[2]: f"removed by {_title(first)} only",
        CLASSES[3]: f"removed by {_title(second)} only",
    }.get(name, name)


def _marker_size(frame: pd.DataFrame) -> int:
    """So that heads do not touch each other in a chart of the usual size."""
    if frame.empty:
        return 5
    return max(5, min(13, 260 // (1 + frame["head"].max()), 300 // (1 + frame["block"].max())))


def class_bars(differences: pd.DataFrame, first: str, second: str) -> go.Figure:
    """How many FFN channels two plans treat alike and differently, by block.

    ``differences``: the frame of `compare_plans`.
    """
    import plotly.graph_objects as go

    rows = differences[differences["kind"] == "channel"]
    columns = ("kept_by_both", "removed_by_both", "only_first", "only_second")
    figure = go.Figure()
    for name, column, (color, _, pattern) in zip(CLASSES, columns, _CLASS_STYLES, strict=True):
        label = _class_label(name, first, second)
        figure.add_bar(
            x=rows["block"],
            y=rows[column],
            name=label,
            marker={"color": color, "pattern": {"shape": pattern, "fgcolor": "white", "size": 6}},
            hovertemplate=f"block %{{x}}: %{{y:,}} channels {label}<extra></extra>",
        )
    figure.update_layout(barmode="stack", bargap=0.1)
    return _roomy(styled(figure, "Block", "FFN channels", title="What goes of the FFN"))


def _roomy(figure: go.Figure) -> go.Figure:
    """Long names, so the legend stands below, where there is room for a line for each."""
    legend = {"orientation": "v", "y": -0.2, "yanchor": "top"}
    return figure.update_layout(height=500, margin_t=45, margin_b=150, legend=legend)


def plan_frame(plan: PruningPlan, before: PruningPlan) -> pd.DataFrame:
    """One row a head: columns block, head, kept, and changed, against the plan ``before``."""
    parts = []
    both = zip(removed_masks(plan), removed_masks(before), strict=True)
    for block, (now, was) in enumerate(both):
        columns = {"block": block, "head": numpy.arange(len(now["head"]))}
        columns |= {"kept": ~now["head"], "changed": now["head"] != was["head"]}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def plan_map(heads: pd.DataFrame, block: int | None = None) -> go.Figure:
    """Blocks × heads of a plan, to be clicked: every point's customdata is (block, head).

    ``heads``: the frame of `plan_frame`. ``block``: the one to mark.
    """
    import plotly.graph_objects as go

    figure = go.Figure()
    size = _marker_size(heads)
    for kept, color, symbol in ((True, KEPT, "square"), (False, REMOVED, "x")):
        rows = heads[heads["kept"] == kept]
        name = "kept" if kept else "removed"
        figure.add_scatter(
            x=rows["block"],
            y=rows["head"],
            customdata=rows[["block", "head"]].to_numpy().tolist(),
            mode="markers",
            name=f"{name} heads ({len(rows)})",
            showlegend=True,
            marker={"color": color, "symbol": symbol, "size": size},
            selected={"marker": {"opacity": 1}},
            unselected={"marker": {"opacity": 1}},
            hovertemplate=f"block %{{x}}, head %{{y}}: {name}<extra></extra>",
        )
    rows = heads[heads["changed"]]
    figure.add_scatter(
        x=rows["block"],
        y=rows["head"],
        customdata=rows[["block", "head"]].to_numpy().tolist(),
        mode="markers",
        name=f"changed by hand ({len(rows)})",
        showlegend=True,
        marker={"color": "#000000", "symbol": "square-open", "size": size + 4, "line_width": 2},
        unselected={"marker": {"opacity": 1}},
        hoverinfo="skip",
    )
    if block is not None:
        figure.add_vrect(
            block - 0.5, block + 0.5, fillcolor=DENSE_COLOR, opacity=0.12, line_width=0
        )
    return styled(figure, "Block", "Query head", title="Attention heads; click one to change it")


def bound_frame(before: Parts, after: Parts) -> pd.DataFrame:
    """One row a block: columns block, before, after, ffn_before, ffn_after.

    ``before``, ``after``: what `llm_bip_parts` says of two plans; the ffn columns are the part of
    the FFN channels alone.
    """
    columns: dict = {"block": range(len(before))}
    for name, parts in (("before", before), ("after", after)):
        columns[name] = [heads + ffn for heads, ffn in parts]
    for name, parts in (("ffn_before", before), ("ffn_after", after)):
        columns[name] = [ffn for _, ffn in parts]
    return pd.DataFrame(columns)


def bound_chart(frame: pd.DataFrame) -> go.Figure:
    """The predicted error of every block, by the frame of `bound_frame`; nothing where it is 0."""
    import plotly.graph_objects as go

    figure, lines = go.Figure(), []
    for column, name, color, symbol, dash in (
        ("before", "before, heads too: estimate", DENSE_COLOR, "circle-open", "dash"),
        ("after", "after, heads too: estimate", PRUNED_COLOR, "circle", "solid"),
        ("ffn_before", "before, FFN channels: bound", DENSE_COLOR, "square-open", "dash"),
        ("ffn_after", "after, FFN channels: bound", PRUNED_COLOR, "square", "solid"),
    ):
        values = frame[column].where(frame[column] > 0)
        lines.append(values)
        figure.add_scatter(
            x=frame["block"],
            y=values,
            mode="lines+markers",
            name=name,
            line={"color": color, "dash": dash},
            marker={"symbol": symbol, "size": 7},
            hovertemplate=f"block %{{x}}, {name}: %{{y:.5g}}<extra></extra>",
        )
    some = any(values.notna().any() for values in lines)
    title = "Predicted error of every block's output"
    return _roomy(
        styled(figure, "Block", "Mean |change|, hidden-state units", log=some, title=title)
    )
