"""Points of a sweep as data frames: all of them, their means over the seeds, and for reading."""

from collections.abc import Iterable

import pandas as pd

from ..evaluation.metrics import Metric, find_metric
from ..studies.points import DENSE, Point, SweepSpec, lines

_GROUP = ["label", "criterion", "sparsity", "samples"]
_COUNTS = ("seed", "samples", "parameters", "macs", "seq_len", "peak_memory")
_COST = ["latency", "tokens_per_second", "peak_memory"]
_FIELDS = [
    name for name in Point.__dataclass_fields__ if name not in ("perplexity", "more", "error")
]
_AVERAGED = ["realised", "realised_total", "parameters", "macs", "seq_len", *_COST, "seconds"]


def column(metric: str, text: str) -> str:
    """The column of a metric on a test text."""
    return f"{metric}_{text}"


def sweep_frame(points: Iterable[Point]) -> pd.DataFrame:
    """One row a point: the fields of `Point`, and a `column` for each metric on each text.

    Latency and time are in seconds, memory in bytes. What does not apply is missing; ``error`` is
    empty where there was none.
    """
    points = list(points)
    rows = [
        {name: getattr(point, name) for name in _FIELDS} | _figures(point) | {"error": point.error}
        for point in points
    ]
    figures = dict.fromkeys(name for row in rows for name in row if name not in (*_FIELDS, "error"))
    columns = [*_FIELDS, *figures, "error"]
    frame = pd.DataFrame(rows, columns=columns)
    texts = ("label", "criterion", "error")
    kinds = {name: "Int64" if name in _COUNTS else "float64" for name in columns}
    return frame.astype({name: kind for name, kind in kinds.items() if name not in texts})


def _figures(point: Point) -> dict[str, float]:
    """What was measured of a point, by its columns."""
    return {
        column(metric, text): value
        for metric, of_text in point.measured.items()
        for text, value in of_text.items()
    }


def measured_in(frame: pd.DataFrame) -> list[tuple[Metric, str]]:
    """The metrics in a `sweep_frame`, each with the name of a test text, column by column."""
    names = [name for name in frame.columns if name not in (*_FIELDS, "error")]
    pairs = [name.split("_", 1) for name in names]
    return [(find_metric(metric), text) for metric, text in pairs]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """A `sweep_frame` without its seeds: one row for each label, sparsity and calibration size.

    Metrics become their mean and, as a column ending in "_std", the sample standard deviation
    (missing where there is one seed); ``seeds`` says of how many, 0 where none mattered. Costs
    become means. Points with an error are left out.
    """
    figures = [column(metric.name, text) for metric, text in measured_in(frame)]
    groups = frame[frame["error"] == ""].groupby(_GROUP, sort=False, dropna=False)
    wanted = {name: (name, "mean") for name in _AVERAGED}
    wanted |= {name: (name, "mean") for name in figures}
    wanted |= {f"{name}_std": (name, "std") for name in figures}
    return groups.agg(seeds=("seed", "count"), **wanted).reset_index()


def refused(frame: pd.DataFrame) -> list[str]:
    """One sentence for each point that could not be made; those that say the same together."""
    sentences = []
    failed = frame[frame["error"] != ""]
    for (label, error), group in failed.groupby(["label", "error"], sort=False):
        shares = ", ".join(f"{100 * s:g}%" for s in sorted(set(group["sparsity"])))
        sentences.append(f"{label} at {shares}: {error}")
    return sentences


def readable(frame: pd.DataFrame, spec: SweepSpec) -> pd.DataFrame:
    """The `summary` of a sweep in words and units, for a table that people read: the dense model,
    then line by line."""
    means, rows = summary(frame), []
    sizes = means["samples"].nunique() > 1
    labels = [DENSE, *(line.label for line in lines(spec))]
    order = {label: place for place, label in enumerate(labels)}
    means = means[(means["sparsity"] > 0) | (means["label"] == DENSE)]
    means = means.sort_values("label", key=lambda labels: labels.map(order), kind="stable")
    for row in means.to_dict("records"):
        cells = {"": row["label"], "Asked": f"{100 * row['sparsity']:g}%"}
        if sizes:
            cells["Samples"] = "-" if pd.isna(row["samples"]) else str(row["samples"])
        cells |= {
            "Gone, blocks": f"{row['realised']:.1%}",
            "Gone, model": f"{row['realised_total']:.1%}",
            "Parameters": f"{row['parameters'] / 1e6:,.2f} M",
            f"MACs, {row['seq_len']:.0f} tokens": f"{row['macs'] / 1e9:,.2f} G",
        }
        for metric, text in measured_in(frame):
            name = column(metric.name, text)
            cells[f"{metric.heading}, {text}"] = figure(metric, row[name], row[f"{name}_std"])
        if means["latency"].notna().any():
            cells |= _cost_cells(row)
        rows.append(cells | {"Seeds": str(row["seeds"] or "-")})
    return pd.DataFrame(rows)


def figure(metric: Metric, value: float, deviation: float) -> str:
    """ "35.12", or "35.12 ± 0.40" where there is a deviation, in one piece."""
    spread = "" if pd.isna(deviation) else f"\u00a0±\u00a0{metric.say(deviation, grouped=True)}"
    return metric.say(value, grouped=True) + spread


def _cost_cells(row: dict) -> dict[str, str]:
    return {
        "Latency": f"{row['latency'] * 1e3:,.1f} ms",
        "Tokens/s": f"{row['tokens_per_second']:,.0f}",
        "Peak memory": f"{row['peak_memory'] / 2**20:,.0f} MiB",
    }
