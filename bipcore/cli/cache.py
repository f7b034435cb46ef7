"""The commands ``cache``: what the run store holds, and emptying it."""

from dataclasses import asdict
from typing import Annotated

import typer

from ..errors import InputError
from ..kinds import KINDS
from ..store.kinds import is_digest
from ..store.roots import check_store
from ..store.runs import Entry, RunStore
from . import console
from .options import Json

_KINDS = ", ".join(kind.name for kind in KINDS)
cache_app = typer.Typer(help="The run store, where results are kept.")


def _store() -> RunStore:
    """The run store; raises InputError where its folder is something else."""
    store = RunStore()
    check_store(store.root)
    return store


@cache_app.command("list")
def cache_list(json: Json = False) -> None:
    """List what is stored: kind, digest, size, state."""
    store = _store()
    entries = list(store.entries())
    if json:
        rows = [_without_files(asdict(e)) | {"path": str(e.path)} for e in entries]
        console.emit_json({"root": str(store.root), "entries": rows})
        return
    rows = [[e.kind, e.digest, console.megabytes(e.size), _state(e)] for e in entries]
    console.emit_table(str(store.root), ["Kind", "Digest", "Size", "State"], rows)


def _without_files(said: dict) -> dict:
    return {name: value for name, value in said.items() if name != "files"}


def _state(entry: Entry) -> str:
    if entry.whole:
        return "whole"
    return "damaged" if is_digest(entry.digest) else "left over"


@cache_app.command("size")
def cache_size(json: Json = False) -> None:
    """The size of what is stored, by kind."""
    store = _store()
    sizes: dict[str, int] = {}
    for entry in store.entries():
        sizes[entry.kind] = sizes.get(entry.kind, 0) + entry.size
    if json:
        console.emit_json({"root": str(store.root), "bytes": sum(sizes.values()), **sizes})
        return
    rows = [[kind, console.megabytes(size)] for kind, size in sizes.items()]
    rows.append(["all", console.megabytes(sum(sizes.values()))])
    console.emit_table(str(store.root), ["Kind", "Size"], rows)


@cache_app.command("clear")
def cache_clear(
    kind: Annotated[
        str | None,
        typer.Option(help=f"Only entries of one kind: {_KINDS}."),
    ] = None,
    json: Json = False,
) -> None:
    """Remove what is stored, and nothing else; everything can be computed again."""
    store = _store()
    kinds = sorted({entry.kind for entry in store.entries()})
    if kind is not None and kind not in kinds:
        raise InputError(f"Nothing of kind {kind!r} is stored; there is {', '.join(kinds) or '-'}.")
    freed = store.clear(kind)
    if json:
        console.emit_json({"root": str(store.root), "freed": freed})
    else:
        console.emit_facts(str(store.root), {"Freed": console.megabytes(freed)})
