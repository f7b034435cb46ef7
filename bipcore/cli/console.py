"""What the command line shares: progress on stderr, one JSON object or tables on stdout, and
errors in one sentence."""

import contextlib
import dataclasses
import json
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ..errors import InputError, printable, reason_of, short
from ..progress import Progress as ProgressCallable
from ..pruning.plan import PruningPlan
from ..store.files import write_text

_PLAIN = {"markup": False, "emoji": False, "highlight": False}
"""What is printed holds words of users: none of them is an instruction."""

err = Console(stderr=True, **_PLAIN)
_WIDE = 160  # where nobody looks at a terminal, no table is cut to 80 columns
_LONGEST_WORD = 300


def prepare() -> None:
    """Make the output ready: it never fails for want of a character, and libraries are quiet."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    quiet_libraries()


@contextlib.contextmanager
def progress_bar() -> Iterator[ProgressCallable]:
    """A progress callable drawn on stderr, gone when the work is done; none without a terminal."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%", markup=False),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task("Starting", total=1.0)

        def report(fraction: float, message: str) -> None:
            bar.update(task, completed=fraction, description=printable(message))

        yield report


def silence() -> Callable[[str], None]:
    """Print nothing more, libraries included; what says one sentence on stderr nevertheless."""
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        for stream in (1, 2):
            os.dup2(nowhere.fileno(), stream)

    def say(sentence: str) -> None:
        os.dup2(kept, 2)
        fail(sentence)

    return say


def quiet_libraries() -> None:
    """Send warnings to stderr in one line each, and keep the libraries' own chatter down."""
    warnings.showwarning = _one_line_warning
    for name in ("transformers", "huggingface_hub", "datasets", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _one_line_warning(message, category, filename, lineno, file=None, line=None) -> None:
    if category is UserWarning:
        _say("warning", str(message))


@contextlib.contextmanager
def _output() -> Iterator[None]:
    """Within it stdout is written to; raises InputError where that fails, and then no more is."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        close_output()
        raise InputError(f"The output cannot be written: {reason_of(error)}.") from None


def flush() -> None:
    """See what was printed through; raises InputError, or BrokenPipeError where nobody reads."""
    with _output():
        if sys.stdout is not None:
            sys.stdout.flush()


def close_output() -> None:
    """Give stdout up: what it has not taken would be tried again when Python ends."""
    sys.stdout = None


def _print(text: str) -> None:
    with _output():
        print(printable(text, keep="\n\t"))


def emit_json(data: Any) -> None:
    """Print one JSON object; dataclasses become objects, infinities null."""
    _print(json.dumps(_plain(data), indent=1))


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
    console = Console(**_PLAIN)
    return console if console.is_terminal else Console(width=_WIDE, **_PLAIN)


def emit_table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """Print a table: the first column to the left, the others, numbers, to the right.

    Where the terminal is too narrow for one, print what it says as a list: no number is cut.
    """
    cells = [[printable(str(cell), keep="\n") for cell in row] for row in rows]
    console = _out()
    widths = _widths([header, *cells], console.width - 3 * len(header) - 1)
    if widths is None:
        _print("\n".join([title, "", *_as_list(header, cells)]))
        return
    table = Table(title=printable(title), title_justify="left", box=SIMPLE_HEAD, padding=(0, 1))
    for index, (name, width) in enumerate(zip(header, widths, strict=True)):
        table.add_column(name, justify="right" if index else "left", width=width)
    for row in cells:
        table.add_row(*row)
    with _output():
        console.print(table)


def _widths(rows: list[list[str]], room: int) -> list[int] | None:
    """The widths of the columns of ``rows``, ``room`` together at most, the first ones as wide as
    they like to be; None where a word would have to be cut for it."""
    columns = list(zip(*rows, strict=True))
    least = [
        max(cell_len(word) for cell in column for word in ["", *cell.split()]) for column in columns
    ]
    liked = [
        max(cell_len(line) for cell in column for line in ["", *cell.split("\n")])
        for column in columns
    ]
    spare = room - sum(least)
    if spare < 0:
        return None
    widths = []
    for few, all_of_it in zip(least, liked, strict=True):
        widths.append(few + min(all_of_it - few, spare))
        spare -= widths[-1] - few
    return widths


def _as_list(header: list[str], rows: list[list[str]]) -> Iterator[str]:
    """The lines of a table as a list: a row under its first cell, or in one line if it is short."""
    for first, *others in rows:
        facts = [f"{name} {cell}".strip() for name, cell in zip(header[1:], others, strict=True)]
        if len(facts) == 1:
            yield f"{first}: {facts[0]}"
        else:
            yield from (first, *(f"  {fact}" for fact in facts))


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
    _print(line)


def emit_text(title: str, text: str) -> None:
    """Print a text under its title, as it is."""
    console = _out()
    if cell_len(title) + 4 > console.width:  # a rule would cut it
        _print(title)
    else:
        with _output():
            console.rule(printable(title), align="left")
    _print(text)


def write_csv(frame: pd.DataFrame, path: Path) -> None:
    """Write a data frame, whole or not at all; raises InputError where it cannot be written."""
    write_text(path, frame.to_csv(index=False))


def megabytes(size: int) -> str:
    """Bytes as MiB, for people."""
    return f"{size / 2**20:,.1f} MiB"


def fail(sentence: str) -> None:
    """Print one sentence on stderr."""
    _say("error", sentence)


def note(sentence: str) -> None:
    """Print on stderr what is no result: a sentence as it is."""
    _say("", sentence)


def _say(kind: str, sentence: str) -> None:
    """Print a sentence on stderr, on one line; nothing where stderr takes no more."""
    if sys.stderr is None:
        return
    words = [short(word, _LONGEST_WORD) for word in sentence.split()]
    try:
        print(*([f"{kind}:"] if kind else []), *words, file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = None


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
