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
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from .errors import InputError
from .progress import Progress as ProgressCallable

out = Console()
err = Console(stderr=True)


@contextlib.contextmanager
def progress_bar() -> Iterator[ProgressCallable]:
    """A progress callable drawn on stderr, gone when the work is done."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as bar:
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


def emit_table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Print a table: the first column to the left, the others, numbers, to the right."""
    table = Table(title=title, title_justify="left")
    for index, name in enumerate(header):
        table.add_column(name, justify="right" if index else "left")
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    out.print(table)


def emit_facts(title: str, facts: dict[str, Any]) -> None:
    """Print names and values, one a line."""
    emit_table(title, ["", ""], [[name, value] for name, value in facts.items()])


def emit_frame(title: str, frame: pd.DataFrame) -> None:
    """Print a data frame, numbers to four figures."""
    rows = [
        [f"{cell:.4g}" if isinstance(cell, float) else cell for cell in row]
        for row in frame.itertuples(index=False)
    ]
    emit_table(title, list(frame.columns), rows)


def emit_text(title: str, text: str) -> None:
    """Print a text under its title, as it is."""
    out.rule(title, align="left")
    out.print(text, markup=False, highlight=False)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a data frame; raises InputError where it cannot be written."""
    try:
        frame.to_csv(path, index=False)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}.") from None


def megabytes(size: int) -> str:
    """Bytes as MiB, for people."""
    return f"{size / 2**20:,.1f} MiB"


def fail(sentence: str) -> None:
    """Print one sentence on stderr."""
    print(f"error: {' '.join(sentence.split())}", file=sys.stderr)
