"""What the command line shares: progress on stderr, one JSON object or tables on stdout, and
errors in one sentence."""

import contextlib
import dataclasses
import json
import logging
import math
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..progress import Progress as ProgressCallable
from ..pruning.plan import PruningPlan
from ..store.files import write_text

err = Console(stderr=True)
_WIDE = 160  # where nobody looks at a terminal, no table is cut to 80 columns


@contextlib.contextmanager
def progress_bar() -> Iterator[ProgressCallable]:
    """A progress callable drawn on stderr, gone when the work is done; none without a terminal."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("Starting", total=1.0)
        yield lambda fraction, message: bar.update(task, completed=fraction, description=message)


def quiet_libraries() -> None:
    """Send warnings to stderr in one line each, and keep the libraries' own chatter down."""
    warnings.showwarning = _one_line_warning
    for name in ("transformers", "huggingface_hub", "datasets", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _one_line_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if category is UserWarning:
        print(f"warning: {message}", file=sys.stderr)


def emit_json(data: Any) -> None:
    """Print one JSON object; dataclasses become objects, infinities null."""
    print(json.dumps(_plain(data), indent=1))


def _plain(data: Any) -> Any:
    if dataclasses.is_dataclass(data):
        return _plain(dataclasses.asdict(data))
    if isinstance(data, dict):
        return {key: _plain(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_plain(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data


def _out() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=_WIDE)


def emit_table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Print a table: the first column to the left, the others, numbers, to the right."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left", overflow="fold")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    _out().print(table)


def emit_facts(title: str, facts: dict[str, Any]) -> None:
    """Print names and values, one a line."""
    emit_table(title, ["", ""], [[name, value] for name, value in facts.items()])


def emit_frame(title: str, frame: pd.DataFrame) -> None:
    """Print a data frame, numbers to three figures."""
    rows = [
        [f"{cell:.3g}" if isinstance(cell, float) else cell for cell in row]
        for row in frame.itertuples(index=False)
    ]
    emit_table(title, [name.replace("_", " ") for name in frame.columns], rows)


def emit_line(line: str) -> None:
    """Print a line as it is."""
    print(line)


def emit_text(title: str, text: str) -> None:
    """Print a text under its title, as it is."""
    _out().rule(title, align="left")
    print(text)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a data frame, whole or not at all; raises InputError where it cannot be written."""
    write_text(path, frame.to_csv(index=False))


def megabytes(size: int) -> str:
    """Bytes as MiB, for people."""
    return f"{size / 2**20:,.1f} MiB"


def fail(sentence: str) -> None:
    """Print one sentence on stderr."""
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)


def plan_facts(plan: PruningPlan | None) -> dict:
    """What a plan says and realises, for JSON; nothing of the dense model's, which is None."""
    if plan is None:
        return {}
    return {
        "plan": dict(plan.spec),
        "realised": plan.realised,
        "realised_total": plan.realised_total,
        "parameters_before": plan.shape.parameters,
        "parameters": plan.pruned_shape.parameters,
    }
