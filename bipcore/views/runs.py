"""The list of runs as tables: runs in, data frame out. Pure functions."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import PurePath
from typing import Any

import pandas as pd

from ..studies.run_words import figure_words
from ..studies.runs import Run

COSTS = ("parameters", "macs", "seq_len", "latency", "peak_memory")
_NAMES = {"macs": "MACs", "seq_len": "tokens of a pass"}
_ABSENT = "–"
_READABLE = ["Kind", "Figure", "Value", "Settings", "Model", "When", "Took", "Size", "State"]


def runs_frame(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run, for a file: ``when`` in UTC (ISO 8601), ``seconds``, ``bytes``; the figures
    after the main one in ``more``; costs by the names of `points.Point`. What is not known is
    missing."""
    return pd.DataFrame([_row(run) for run in runs], columns=list(_row_names()))


def _row_names() -> tuple[str, ...]:
    start = ("kind", "name", "model", "settings", "figure", "value", "more")
    return (*start, "when", "seconds", "bytes", "state", *COSTS)


def _row(run: Run) -> dict[str, Any]:
    (name, value), *others = run.figures.items() or [(None, None)]
    more = "; ".join(f"{other} {number:.6g}" for other, number in others)
    said = {"kind": run.kind, "name": run.name, "model": run.model, "settings": run.words}
    said |= {"figure": name, "value": value, "more": more, "when": when_iso(run)}
    said |= {"seconds": run.seconds, "bytes": run.size, "state": run.state}
    return said | {cost: run.costs.get(cost) for cost in COSTS}


def when_iso(run: Run) -> str:
    """When it was made: UTC, to the second."""
    return datetime.fromtimestamp(run.when, UTC).isoformat(timespec="seconds")


def readable(runs: Sequence[Run]) -> pd.DataFrame:
    """One row a run, for people: numbers stay numbers, so that the table can be sorted by them.
    ``When`` is in this machine's time zone, ``Took`` in seconds, ``Size`` in MiB."""
    rows = []
    for run in runs:
        name, value = next(iter(run.figures.items()), ("", None))
        rows.append(
            {
                "Kind": run.title,
                "Figure": figure_words(name, value).rpartition(" ")[0] if name else _ABSENT,
                "Value": value,
                "Settings": run.words or _ABSENT,
                "Model": _last_part(run.model) or _ABSENT,
                "When": datetime.fromtimestamp(run.when),
                "Took": run.seconds,
                "Size": run.size / 2**20,
                "State": run.state,
            }
        )
    frame = pd.DataFrame(rows, columns=_READABLE)
    return frame.astype({"Value": float, "Took": float, "Size": float})


def _last_part(model: str) -> str:
    """The name of a model; of a folder by its whole path only what tells it from others."""
    return f"…/{PurePath(model).name}" if model.startswith(("/", "~")) else model


def cells(run: Run) -> list[str]:
    """A run as words, for a table that is printed; what is not known is a dash."""
    when = datetime.fromtimestamp(run.when).strftime("%Y-%m-%d %H:%M")
    words = run.title, run.model or _ABSENT, run.figure or _ABSENT, when
    taken = duration(run.seconds), size(run.size)
    return [*words, *taken, run.state, run.words or _ABSENT]


def duration(seconds: float | None) -> str:
    """ "0.4 s", "35 s", "12 min", "3.5 h"; a dash for what is not known."""
    if seconds is None:
        return _ABSENT
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """Bytes for people, small ones too: "812 B", "4.2 KiB", "513.0 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:,.0f} B" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1024
    return f"{count:,.1f} GiB"


def compared(runs: Sequence[Run]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Runs side by side, a column for each: the settings in which they differ, of one run all that
    it says, and their figures, costs and times. A cell is empty where a run does not say."""
    settings = [{"kind": run.title, "model": run.model, **run.settings} for run in runs]
    several = len(runs) > 1
    names = dict.fromkeys(name for said in settings for name in said)
    differing = [
        name for name in names if not several or len({str(said.get(name)) for said in settings}) > 1
    ]
    figures = [_measured(run) for run in runs]
    shown = dict.fromkeys(name for said in figures for name in said)
    titles = [f"{n}: {run.title}" if several else run.title for n, run in enumerate(runs, 1)]
    tables = (settings, differing), (figures, list(shown))
    settings_table, figures_table = (_side_by_side(*table, titles) for table in tables)
    return settings_table, figures_table


def _measured(run: Run) -> dict[str, str]:
    found = {name: f"{value:,.4g}" for name, value in run.figures.items()}
    costs = {name: f"{value:,.4g}" for name, value in run.costs.items()}
    return found | costs | {"took": duration(run.seconds), "size on the disk": size(run.size)}


def _side_by_side(
    said: Sequence[dict], names: Sequence[str], titles: Sequence[str]
) -> pd.DataFrame:
    columns = {
        title: [_cell(one.get(name)) for name in names]
        for title, one in zip(titles, said, strict=True)
    }
    return pd.DataFrame({"": [_name(name) for name in names], **columns})


def _name(name: str) -> str:
    return _NAMES.get(name, name).replace("_", " ")


def _cell(value: Any) -> str:
    if value is None or value == "":
        return ""
    return f"{value:,.4g}" if isinstance(value, float) else str(value)
