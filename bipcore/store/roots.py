"""The root of a run store, and its mark: nothing is written to or removed from any other folder."""

import json
import os
import re
from pathlib import Path

from ..errors import InputError, reason_of, short
from .inputs import read_json
from .unfinished import is_temporary, probe, sweep, temporary

MARK = "bipcore-store.json"
MARK_FORMAT = "bipcore-store/1"

_ENTRY = re.compile("[0-9a-f]{16}")
_HARMLESS = (".gitkeep", ".gitignore", ".DS_Store", "lost+found", "CACHEDIR.TAG")
UNMARKED_KINDS = (
    "benchmarks",
    "checkpoints",
    "evaluations",
    "models",
    "plans",
    "points",
    "reconstruction",
    "recoveries",
    "reproductions",
    "scores",
    "second-moments",
    "statistics",
    "steps",
    "zero-shot",
)
"""The folders that a store of before there was a mark may have."""


def is_entry_name(name: str) -> bool:
    """Whether an entry of a store may be called so, or what is unfinished or set aside of one."""
    return _ENTRY.fullmatch(name) is not None or (is_temporary(name) and name[0] != ".")


def is_store(root: Path) -> bool:
    """Whether ``root`` is the root of a store, marked or from before there was a mark."""
    try:
        return _format(root) == MARK_FORMAT or _strange(root) is None
    except OSError:  # there is no such folder, or it cannot be read
        return False


def _format(root: Path) -> str | None:
    """What the mark says; None where there is none, or it is damaged."""
    if not os.path.lexists(root / MARK):
        return None
    try:
        mark = read_json(root / MARK, "The mark")
    except InputError:
        return None
    return str(mark.get("format")) if isinstance(mark, dict) else None


def _strange(root: Path) -> str | None:
    """The first thing in a folder that no store of before there was a mark holds, but for a mark
    that is damaged. Raises OSError."""
    for item in sorted(root.iterdir()):
        is_mark = item.name == MARK and item.is_file() and _format(root) is None
        if is_mark or item.name in _HARMLESS or is_temporary(item.name):
            continue
        if item.name not in UNMARKED_KINDS or item.is_symlink() or not item.is_dir():
            return item.name
        for entry in item.iterdir():
            if not is_entry_name(entry.name) and entry.name not in _HARMLESS:
                return f"{item.name}/{entry.name}"
    return None


def fault_of(root: Path) -> str | None:
    """Why ``root`` can be no store, in a few words: it is no folder, or holds other things. None
    where it can be one, or is not there yet. Raises OSError where it cannot be read."""
    if not os.path.lexists(root):
        return None
    if not root.is_dir():
        return "it is no folder"
    strange = None if _format(root) == MARK_FORMAT else _strange(root)
    return None if strange is None else f"it holds other things ({short(strange)})"


def check_store(root: Path) -> None:
    """Raise InputError where ``root`` can be no store (see `fault_of`)."""
    try:
        fault = fault_of(root)
    except OSError as error:
        raise unwritable(root, error) from error
    if fault is not None:
        raise InputError(
            f"{short(root)} is no run store of bipcore, since {fault}; set BIPCORE_CACHE to a "
            "folder of its own."
        )


def check_root(root: Path) -> None:
    """`check_store`; raises InputError, too, where nothing can be written to it."""
    check_store(root)
    try:
        there = next(path for path in (root, *root.absolute().parents) if os.path.lexists(path))
        if not there.is_dir():
            raise NotADirectoryError(f"{there} is no folder")
        probe(there)
    except OSError as error:
        raise unwritable(root, error) from error


def mark(root: Path) -> None:
    """Make the root, where it is missing, and its mark. Raises InputError as `check_root` does."""
    check_root(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        if _format(root) != MARK_FORMAT:
            sweep(root)
            with temporary(root, ".unfinished", is_folder=False) as unfinished:
                unfinished.write_text(json.dumps({"format": MARK_FORMAT}) + "\n")
                os.replace(unfinished, root / MARK)
    except OSError as error:
        raise unwritable(root, error) from error


def unwritable(root: Path, error: Exception) -> InputError:
    """What to raise where a store cannot be written."""
    return InputError(
        f"The run store {short(root)} cannot be written: {reason_of(error)}; "
        "free some space, or set BIPCORE_CACHE to another folder."
    )
