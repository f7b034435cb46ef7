"""The command ``runs``: what the run store's results were made with, and what came of them."""

from pathlib import Path
from typing import Annotated

import typer

from ..kinds import KINDS
from ..store.roots import check_store
from ..store.runs import RunStore
from ..studies.runs import SORTS, list_runs
from . import console
from .options import Force, Json
from .outputs import check_outputs

_KINDS = ", ".join(kind.name for kind in KINDS)
_HEADER = ["Kind", "Model", "Figure", "When", "Took", "Size", "State", "Settings"]


def runs_command(
    *,
    kind: Annotated[str | None, typer.Option(help=f"Only those of one kind: {_KINDS}.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Only those of one model, by the name it was asked for by.")
    ] = None,
    sort: Annotated[str, typer.Option(help=f"By what they are sorted: {', '.join(SORTS)}.")] = (
        SORTS[0]
    ),
    csv: Annotated[Path | None, typer.Option(help="Also write the table to a CSV file.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """List everything that was computed and stored: settings, figure, time, size and state."""
    from ..views.runs import cells, runs_frame

    check_outputs(csv=csv, force=force)
    store = RunStore()
    check_store(store.root)
    runs = list_runs(store, KINDS, kind=kind, model=model, sort=sort)
    if csv is not None:
        console.write_csv(runs_frame(runs), csv)
    if json:
        console.emit_json({"root": str(store.root), "runs": [run.to_dict() for run in runs]})
    elif runs:
        console.emit_table(str(store.root), _HEADER, [cells(run) for run in runs])
    else:
        console.emit_line(f"{store.root} holds nothing of that; `bipcore score` adds to it.")
