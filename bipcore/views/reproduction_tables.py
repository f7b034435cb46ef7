"""Rows of a reproduction beside the published ones, as data frames: long, and for reading."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import pandas as pd

from ..specs import SEVEN
from ..studies.points import DENSE, Point, text_names
from ..studies.reproduction.published import TEXTS, paper_name, perplexity_window, published_rows
from ..studies.reproduction.rows import Row, column
from ..studies.reproduction.spec import Reproduction, RowKey, row_keys

TITLES = {
    "wikitext2": "WikiText-2",
    "ptb": "PTB",
    "boolq": "BoolQ",
    "piqa": "PIQA",
    "hellaswag": "HellaSwag",
    "winogrande": "WinoGrande",
    "arc_easy": "ARC-e",
    "arc_challenge": "ARC-c",
    "openbookqa": "OBQA",
    "average": "Average",
    "seconds": "Seconds",
    "params_billion": "Parameters, B",
    "macs_giga": "MACs, G",
    "latency_seconds": "Latency, s",
    "accumulated": "Accumulated",
    "local": "Local",
}
"""What columns are called; a perplexity's window is said with it."""

_UNSURE = " ?"
_REMOVED = "Removed of the blocks"
_COUNTS = ("params_billion", "macs_giga", "latency_seconds", "seconds")
_LONG = (
    "row",
    "method",
    "sparsity",
    "tuned",
    "samples",
    "column",
    "published",
    "window_stated",
    "measured",
    "difference",
    "size",
    "total",
    "metric",
    "realised",
    "error",
)


@dataclass(frozen=True)
class Published:
    """A printed figure; ``sure`` is False for a perplexity whose window is not stated."""

    value: float
    sure: bool = True


def title_of(name: str) -> str:
    """A column's title: "WikiText-2, window 128", "BoolQ"."""
    text, at, window = name.rpartition("@")
    if not at:
        return TITLES.get(name, name)
    return f"{TITLES.get(text, text)}, window {window}"


def columns_of(spec: Reproduction) -> list[str]:
    """The columns of a spec's table, in order."""
    own = {
        "seconds": ["seconds"],
        "compression": ["params_billion", "macs_giga", "latency_seconds"],
        "reconstruction": ["accumulated", "local"],
    }
    if spec.kind in own:
        return own[spec.kind]
    found = [column(text.text, text.window) for text in spec.texts]
    return [*found, *((*spec.tasks.tasks, "average") if spec.tasks else ())]


def reference(spec: Reproduction) -> tuple[str | None, bool]:
    """The paper's name of the model whose rows stand beside the measured ones, None for a figure;
    and whether it is the model that is measured."""
    if not spec.table:
        return None, False
    known = {row["model"] for row in _records(spec.table)}
    own = paper_name(spec.model.name)
    return (own, True) if own in known else (paper_name(spec.models[0]), False)


def published_cells(spec: Reproduction, key: RowKey) -> dict[str, Published]:
    """What was printed for a row, by the spec's columns; nothing where there is no such row.

    A perplexity stands in the column of its window; one whose window is not stated stands in all
    of them, and is not ``sure``.
    """
    model, _ = reference(spec)
    if model is None:
        return {}
    wanted = {"model": model, "finetuned": "yes" if key.tuned else "no", "method": key.method}
    for row in _records(spec.table):
        said = {name: row[name] for name in wanted if name in row}
        sparsity = row.get("sparsity_percent", 100 * key.sparsity)
        if said.items() <= wanted.items() and abs(sparsity - 100 * key.sparsity) < 1e-6:
            return _cells(spec, row)
    return {}


@cache
def _records(table: int) -> list[dict]:
    return published_rows(table).to_dict("records")


def _cells(spec: Reproduction, row: dict) -> dict[str, Published]:
    found = {}
    for name in columns_of(spec):
        text, at, window = name.rpartition("@")
        if not at and name in row:
            found[name] = Published(float(row[name]))
        elif text in TEXTS:
            stated = perplexity_window(spec.table, row)
            if stated in (None, int(window)):
                found[name] = Published(float(row[TEXTS[text]]), stated is not None)
    if "average" in found and spec.tasks is not None and set(spec.tasks.tasks) != set(SEVEN):
        del found["average"]  # that of all seven
    return found


def comparison_frame(spec: Reproduction, rows: Iterable[Row]) -> pd.DataFrame:
    """One line a figure: what was published, what was measured, and the difference.

    ``difference`` is measured minus published, and only there where the model is the published
    one. ``window_stated`` is False for a published perplexity whose window is not stated.
    ``size`` of ``total`` is what it was measured on (see `Measured`).
    """
    by_key, same = {row.key: row for row in rows}, reference(spec)[1]
    lines = []
    for key in row_keys(spec):
        row, printed = by_key.get(key, Row(key)), published_cells(spec, key)
        for name in columns_of(spec):
            published, measured = printed.get(name), row.cells.get(name)
            both = same and published is not None and measured is not None
            line = {
                "row": spec.label(key),
                "method": key.method,
                "sparsity": key.sparsity,
                "tuned": key.tuned,
                "samples": key.samples,
                "column": name,
                "published": published.value if published else None,
                "window_stated": published.sure if published else None,
                "measured": measured.value if measured else None,
                "difference": measured.value - published.value if both else None,
                "size": measured.samples if measured else None,
                "total": measured.total if measured else None,
                "metric": measured.metric if measured else "",
                "realised": row.realised,
                "error": row.error,
            }
            lines.append(line)
    frame = pd.DataFrame(lines, columns=list(_LONG))
    whole, numbers = ("samples", "size", "total"), ("published", "measured", "difference")
    kinds = dict.fromkeys(whole, "Int64") | dict.fromkeys((*numbers, "realised"), "float64")
    return frame.astype(kinds)


def readable(
    spec: Reproduction,
    rows: Sequence[Row],
    *,
    columns: Sequence[str] | None = None,
    counted: bool = False,
) -> pd.DataFrame:
    """The comparison for people: of each row up to three lines, published, measured (where nothing
    was run ``counted``) and difference. A question mark: the published window is not stated.
    ``columns``: only these. The last column is what the plan removed, where anything was."""
    columns = columns_of(spec) if columns is None else columns
    frame, lines = comparison_frame(spec, rows), []
    frame = frame[frame["column"].isin(columns)]
    shown = {"published": "published", "measured": "counted" if counted else "measured"}
    for name, of_row in frame.groupby("row", sort=False):
        first = True
        for kind, word in (shown | {"difference": "difference"}).items():
            if of_row[kind].isna().all():
                continue
            cells = {
                title_of(cell["column"]): _cell(cell, kind) for cell in of_row.to_dict("records")
            }
            gone = of_row["realised"].iloc[0]
            has_gone = kind == "measured" and not pd.isna(gone)
            cells[_REMOVED] = f"{gone:.2%}" if has_gone else "-"
            lines.append({"Row": name if first else "", "": word} | cells)
            first = False
        if first or (of_row["measured"].isna().all() and of_row["error"].iloc[0]):
            empty = dict.fromkeys([*(title_of(name) for name in columns), _REMOVED], "-")
            said = "not done" if of_row["error"].iloc[0] else "not measured"
            lines.append({"Row": name if first else "", "": said} | empty)
    titles = [title_of(name) for name in columns]
    removed = [_REMOVED] if frame["realised"].gt(0).any() else []
    return pd.DataFrame(lines, columns=["Row", "", *titles, *removed])


def _cell(cell: dict, kind: str) -> str:
    value, name = cell[kind], cell["column"]
    if pd.isna(value):
        return "-"
    digits = 3 if name == "params_billion" else 4 if name in ("accumulated", "local") else 2
    text = f"{value:{'+' if kind == 'difference' else ''},.{digits}f}"
    if kind == "difference" and name in _COUNTS:
        text += f" ({value / cell['published']:+.2%})"
    unsure = kind != "measured" and cell["window_stated"] is False
    return text + (_UNSURE if unsure else "")


def refused(rows: Iterable[Row]) -> list[str]:
    """One sentence for each row that could not be measured; those that say the same together."""
    found: dict[str, list[str]] = {}
    for row in rows:
        if row.error:
            found.setdefault(row.error, []).append(str(row.key))
    return [f"{'; '.join(names)}: {error}" for error, names in found.items()]


def sample_sizes(rows: Iterable[Row]) -> str:
    """How many rows of each task were run, as one sentence; nothing where none was."""
    sizes = {
        name: (cell.samples, cell.total, cell.metric)
        for row in rows
        for name, cell in row.cells.items()
        if cell.metric in ("acc", "acc_norm")
    }
    if not sizes:
        return ""
    words = []
    for name in (*SEVEN, *(name for name in sizes if name not in SEVEN)):
        if name in sizes:
            samples, total, metric = sizes[name]
            whole = f" of {total:,}" if total else ""
            words.append(f"{title_of(name)} {samples:,}{whole} ({metric})")
    return f"Rows of each task, and what was taken as its accuracy: {', '.join(words)}."


def points_of(spec: Reproduction, rows: Iterable[Row]) -> list[Point]:
    """The rows of a sweep as the points that the charts of `views.sweep` draw."""
    names = {column(t.text, t.window): name for name, t in text_names(spec.texts).items()}
    return [
        Point(
            label=row.key.method,
            criterion=row.key.method,
            sparsity=row.key.sparsity,
            seed=spec.calibration.seed if row.key.samples is not None else None,
            samples=row.key.samples,
            realised=row.realised if row.key.method != DENSE else 0.0,
            realised_total=row.realised_total,
            perplexity={names[n]: row.cells[n].value for n in names if n in row.cells},
            error=row.error,
        )
        for row in rows
    ]
