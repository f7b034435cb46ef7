"""Results of zero-shot tasks as tables: of the states of a model, and beside the paper's rows.

``results`` are those of each state of the model ("dense", "pruned", "recovered") by its name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..evaluation.zero_shot import TaskResult, average
from ..specs import SEVEN
from ..studies.reproduction.published import paper_name, published_rows
from .style import DENSE_COLOR, PRUNED_COLOR, RECOVERED_COLOR, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go

Results = Mapping[str, Sequence[TaskResult]]

MEAN_NOTE = "The mean takes acc_norm of a task that has it, else acc."

_FIRST = ("acc", "acc_norm")
_COLUMNS = (
    "task",
    "state",
    "metric",
    "value",
    "stderr",
    "counts",
    "samples",
    "total",
    "num_fewshot",
    "version",
    "source",
)


def results_frame(results: Results) -> pd.DataFrame:
    """A row for every metric of every task and state: ``value`` and ``stderr`` from 0 to 1,
    ``counts`` where it is the metric that counts (see `TaskResult.score_name`)."""
    rows = [
        (
            result.task,
            state,
            metric,
            value,
            result.stderrs.get(metric),
            metric == result.score_name,
            result.samples,
            result.total,
            result.num_fewshot,
            result.version,
            result.source,
        )
        for state, found in results.items()
        for result in found
        for metric, value in result.metrics.items()
    ]
    return pd.DataFrame(rows, columns=list(_COLUMNS))


def readable(results: Results) -> pd.DataFrame:
    """A row for every task, as people read it: rows used, every metric of every state in per
    cent ± its standard error, and what is lost to the dense model in points of the metric that
    counts; the last row is the mean of all tasks."""
    by_task = _by_task(results)
    metrics = _metrics(results)
    rows = [_task_row(task, found, metrics, list(results)) for task, found in by_task.items()]
    whole = {s: found for s, found in results.items() if len(found) == len(by_task)}
    if len(by_task) > 1 and whole:
        rows.append(_mean_row(results, whole, metrics, len(by_task)))
    return pd.DataFrame(rows)


def _by_task(results: Results) -> dict[str, dict[str, TaskResult]]:
    found: dict[str, dict[str, TaskResult]] = {}
    for state, of_state in results.items():
        for result in of_state:
            found.setdefault(result.task, {})[state] = result
    return found


def _metrics(results: Results) -> list[str]:
    """All metrics that there are, acc and acc_norm first."""
    names = [name for found in results.values() for one in found for name in one.metrics]
    return [name for name in dict.fromkeys((*_FIRST, *names)) if name in names]


def _task_row(
    task: str, found: Mapping[str, TaskResult], metrics: Sequence[str], states: Sequence[str]
) -> dict[str, str]:
    rows = next(iter(found.values())).rows.removesuffix(" rows")
    cells = {"Task": task, "Rows": rows}
    for state in states:
        one = found.get(state)
        cells |= {_column(state, name): _cell(one, name) for name in metrics}
    for state in states[1:]:
        both = state in found and states[0] in found
        lost = found[state].score - found[states[0]].score if both else None
        cells[_difference(state, states[0])] = "" if lost is None else f"{100 * lost:+.1f}"
    return cells


def _mean_row(results: Results, whole: Results, metrics: Sequence[str], count: int) -> dict:
    """The mean score of the states that are whole, in the column of acc_norm or of what there
    is."""
    means = {state: average(found) for state, found in whole.items()}
    cells = {"Task": f"mean of {count}", "Rows": ""}
    states, last = list(results), "acc_norm" if "acc_norm" in metrics else metrics[0]
    for state in states:
        mean = f"{means[state]:.1f}" if state in means else ""
        cells |= {_column(state, name): mean if name == last else "" for name in metrics}
    for state in states[1:]:
        both = state in means and states[0] in means
        cells[_difference(state, states[0])] = (
            f"{means[state] - means[states[0]]:+.1f}" if both else ""
        )
    return cells


def _column(state: str, metric: str) -> str:
    return f"{state.capitalize()} {metric}"


def _difference(state: str, reference: str) -> str:
    return f"{state.capitalize()} − {reference}"


def _cell(result: TaskResult | None, metric: str) -> str:
    if result is None or metric not in result.metrics:
        return ""
    error = result.stderrs.get(metric)
    spread = "" if error is None else f" ± {100 * error:.1f}"
    return f"{100 * result.metrics[metric]:.1f}{spread}"


def rows_note(results: Results) -> str:
    """What was measured, in a sentence or two: a part of a task is no benchmark."""
    first = {task: next(iter(found.values())) for task, found in _by_task(results).items()}
    partly = {task: one for task, one in first.items() if one.limited}
    shots = max((one.num_fewshot for one in first.values()), default=0)
    examples = f" {shots} examples stood in every prompt." if shots else ""
    if not partly:
        return f"All rows of every task were measured.{examples}"
    words = ", ".join(f"{task} {one.rows}" for task, one in partly.items())
    return (
        f"Only a part was measured ({words}): this is not the benchmark, and not to be compared "
        f"with published figures.{examples}"
    )


def measured_rows(results: Results) -> pd.DataFrame:
    """The scores of each state in the columns of the paper's tables, in per cent; the mean only
    where all seven are there."""
    rows = []
    for state, found in results.items():
        scores = {one.task: 100 * one.score for one in found if one.task in SEVEN}
        mean = sum(scores.values()) / len(SEVEN) if len(scores) == len(SEVEN) else None
        cells = {task: scores.get(task) for task in SEVEN}
        rows.append({"row": f"measured, {state}", **cells, "average": mean})
    return pd.DataFrame(rows)


def paper_rows(
    table: int, results: Results, model: str, sparsity: float | None = None
) -> pd.DataFrame:
    """The rows of one of the paper's tables 1 to 3, and for each whether ``results`` may be
    compared with it (``compare``: "yes", or "no" and why).

    ``model``: what was measured; ``sparsity``: the share of its blocks that was asked to go.
    """
    published = published_rows(table)
    rows = []
    for row in published.to_dict("records"):
        tuned = ", fine-tuned" if row["finetuned"] == "yes" else ""
        cut = f" at {row['sparsity_percent']:g} %" if row["sparsity_percent"] else ""
        reasons = why_not(row, results, model, sparsity)
        cells = {name: row[name] for name in (*SEVEN, "average")}
        name = f"{row['model']}, {row['method']}{cut}{tuned}"
        rows.append(
            {"row": name, **cells, "compare": f"no: {'; '.join(reasons)}" if reasons else "yes"}
        )
    return pd.DataFrame(rows)


def why_not(
    row: Mapping[str, Any], results: Results, model: str, sparsity: float | None
) -> list[str]:
    """Why a published row may not be compared with what was measured; empty where it may.

    Only the same model, at the same sparsity, in all rows of all seven tasks without examples.
    """
    state = "recovered" if row["finetuned"] == "yes" else "pruned"
    state = "dense" if row["method"] == "dense" else state
    found = {one.task: one for one in results.get(state, ()) if one.task in SEVEN}
    asked = None if sparsity is None else round(100 * sparsity, 4)
    reasons = []
    if paper_name(model) != row["model"]:
        reasons.append("another model")
    if not found:
        reasons.append(f"no {state} model was measured")
    elif len(found) < len(SEVEN):
        reasons.append("not all seven tasks")
    if state != "dense" and asked != row["sparsity_percent"]:
        reasons.append("another sparsity")
    if any(one.limited for one in found.values()):
        reasons.append("not all rows")
    if any(one.num_fewshot for one in found.values()):
        reasons.append("examples in the prompt")
    return reasons


COLORS = {"dense": DENSE_COLOR, "pruned": PRUNED_COLOR, "recovered": RECOVERED_COLOR}


def accuracy_chart(frame: pd.DataFrame, *, title: str = "Accuracy by task") -> go.Figure:
    """A bar for every task and state, with one standard error up and down.

    ``frame`` is a `results_frame`; of each task its metric that counts is drawn.
    """
    import plotly.graph_objects as go

    shown = frame[frame["counts"]]
    figure = go.Figure()
    for state, rows in shown.groupby("state", sort=False):
        color = COLORS.get(str(state), DENSE_COLOR)
        errors = 100 * rows["stderr"].astype(float)
        data = [
            [metric, f" ± {error:.1f}" if error == error else "", samples, _of(total)]
            for metric, error, samples, total in zip(
                rows["metric"], errors, rows["samples"], rows["total"], strict=True
            )
        ]
        figure.add_bar(
            x=rows["task"],
            y=100 * rows["value"],
            name=str(state),
            marker_color=color,
            error_y={"array": errors.fillna(0.0), "thickness": 1.5, "color": "#333"},
            customdata=data,
            hovertemplate=f"%{{x}}, {state}: %{{customdata[0]}} %{{y:.1f}} %%{{customdata[1]}}<br>"
            "%{customdata[2]:,}%{customdata[3]} rows<extra></extra>",
        )
    figure.update_layout(barmode="group", bargap=0.25)
    figure = styled(figure, "Task", "Accuracy, %", title=title)
    figure.update_yaxes(rangemode="tozero")
    return figure


def _of(total: float | None) -> str:
    return "" if total is None or total != total else f" of {int(total):,}"
