"""Where commands write beside stdout: checked before anything is computed."""

from pathlib import Path

from ..errors import InputError
from ..export.export import Export
from ..export.formats import find_format
from ..store.files import check_file
from ..views.report import GENERATOR
from . import console

TABLES = (
    "block,kind,index,score",
    "block,model,accumulated,local",
    "first,second,kind,block",
    "step,loss,learning_rate,validation",
    "task,state,metric,value,stderr",
    "label,criterion,sparsity",
    "row,method,sparsity,tuned",
    "kind,name,model,settings",
)
"""How the first lines begin of the tables that commands write: a file that begins so is ours."""

_LINE = 4096


def check_outputs(*, force: bool, csv: Path | None = None, report: Path | None = None) -> None:
    """Raise InputError where a table or a report cannot be written, or a file would be overwritten
    that is none and ``force`` is not said."""
    targets = []
    if csv is not None:
        targets.append(check_file(csv, kind="a table of bipcore", ours=is_table, force=force))
    if report is not None:
        targets.append(check_file(report, kind="a report of bipcore", ours=is_report, force=force))
    if len(set(targets)) < len(targets):
        raise InputError("The table and the report are the same file; give each one of its own.")


def is_table(file: Path) -> bool:
    """Whether a file begins as the tables do that commands write."""
    return _start(file).startswith(TABLES)


def is_report(file: Path) -> bool:
    """Whether a file begins as the reports do that commands write."""
    return GENERATOR in _start(file)


def _start(file: Path) -> str:
    with file.open("rb") as opened:
        return opened.read(_LINE).decode("utf-8-sig", errors="replace")


def show_smaller(export: Export) -> None:
    """Print the command that makes a smaller file of an export, where there is one."""
    smaller = find_format(export.format).smaller_code
    if smaller is not None:
        hint = "Rows that are no multiple of 256 get a larger type; --round-to 256 avoids that."
        console.emit_text("A smaller file, by llama.cpp", f"{smaller(export.folder)}\n{hint}")
