"""Points of a sweep as data frames: all of them, their means over the seeds, and for reading."""

from collections.abc import Iterable

import pandas as pd

from ..studies.points import DENSE, Point, SweepSpec, lines

PREFIX = "perplexity_"
"""What the column of a test text's perplexity begins with; the text's name follows."""

_GROUP = ["label", "criterion", "sparsity", "samples"]
_COUNTS = ("seed", "samples", "parameters", "macs", "seq_len", "peak_memory")
_COST = ["latency", "tokens_per_second", "peak_memory"]
_AVERAGED = ["realised", "realised_total", "parameters", "macs", "seq_len", *_COST, "seconds"]


def sweep_frame(points: Iterable[Point]) -> pd.DataFrame:
    """One row a point: the fields of `Point`, and a column `PREFIX` + name for each text.

    Latency and time are in seconds, memory in bytes. What does not apply is missing; ``error`` is
    empty where there was none.
    """
    points = list(points)
    names = dict.fromkeys(name for point in points for name in point.perplexity)
    fields = [name for name in Point.__dataclass_fields__ if name not in ("perplexity", "error")]
    rows = [
        {name: getattr(point, name) for name in fields}
        | {PREFIX + name: point.perplexity.get(name) for name in names}
        | {"error": point.error}
        for point in points
    ]
    columns = [*fields, *(PREFIX + name for name in names), "error"]
    frame = pd.DataFrame(rows, columns=columns)
    texts = ("label", "criterion", "error")
    kinds = {name: "Int64" if name in _COUNTS else "float64" for name in columns}
    return frame.astype({name: kind for name, kind in kinds.items() if name not in texts})


def texts_of(frame: pd.DataFrame) -> list[str]:
    """The names of the test texts whose perplexity a `sweep_frame` holds."""
    return [name.removeprefix(PREFIX) for name in frame.columns if name.startswith(PREFIX)]


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """A `sweep_frame` without its seeds: one row for each label, sparsity and calibration size.

    Perplexities become their mean and, as a column ending in "_std", the sample standard deviation
    (missing where there is one seed); ``seeds`` says of how many, 0 where none mattered. Costs
    become means. Points with an error are left out.
    """
    perplexities = [PREFIX + name for name in texts_of(frame)]
    groups = frame[frame["error"] == ""].groupby(_GROUP, sort=False, dropna=False)
    wanted = {name: (name, "mean") for name in _AVERAGED}
    wanted |= {name: (name, "mean") for name in perplexities}
    wanted |= {f"{name}_std": (name, "std") for name in perplexities}
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
        for name in texts_of(frame):
            value, deviation = row[PREFIX + name], row[f"{PREFIX}{name}_std"]
            cells[f"Perplexity, {name}"] = figure(value, deviation)
        if means["latency"].notna().any():
            cells |= _cost_cells(row)
        rows.append(cells | {"Seeds": str(row["seeds"] or "-")})
    return pd.DataFrame(rows)


def figure(value: float, deviation: float) -> str:
    """ "35.12", or "35.12 ± 0.40" where there is a deviation, in one piece."""
    spread = "" if pd.isna(deviation) else f"\u00a0±\u00a0{deviation:,.2f}"
    return f"{value:,.2f}{spread}"


def _cost_cells(row: dict) -> dict[str, str]:
    return {
        "Latency": f"{row['latency'] * 1e3:,.1f} ms",
        "Tokens/s": f"{row['tokens_per_second']:,.0f}",
        "Peak memory": f"{row['peak_memory'] / 2**20:,.0f} MiB",
    }
