"""The folder an export goes to: what may be overwritten, and how it is put there in one step."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..errors import InputError

MANIFEST = "bipcore.json"
FORMAT = "bipcore-export/1"


def read_manifest(folder: Path) -> dict:
    """The manifest of an earlier export in ``folder``, {} where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(manifest, dict) and manifest.get("format") == FORMAT
    return manifest if known else {}


def check_destination(folder: str | Path) -> Path:
    """``folder`` as an absolute path, links resolved, if an export may be written there.

    It may be missing, empty, or an earlier export that nothing was added to. Raises InputError.
    """
    if not str(folder).strip():
        raise InputError("The output folder has no name; give one.")
    try:
        target = Path(folder).expanduser().resolve()
        if target.is_file():
            raise InputError(f"{target} is a file; give a folder to write to.")
        if Path.cwd().is_relative_to(target):
            raise InputError(f"{target} is in use as the working folder; give a folder of its own.")
        if target.is_dir() and (strange := _first_strange(target)):
            raise InputError(
                f"{target} holds something else ({strange}); give an empty or new folder."
            )
        parent = next(p for p in (target.parent, *target.parent.parents) if p.exists())
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(folder)[:200]} cannot be written: {reason}.") from None
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise InputError(f"{target} cannot be written: no permission in {parent}.")
    return target


def _first_strange(target: Path) -> str | None:
    """The first thing in ``target`` that no export of ours put there."""
    files = set(read_manifest(target).get("files", {}))
    own = files | ({MANIFEST} if files else set())
    folders = {str(parent) for name in own for parent in Path(name).parents} - {"."}
    for root, directories, names in os.walk(target):
        for name in (*directories, *names):
            path = Path(root, name)
            relative = str(path.relative_to(target))
            expected = folders if name in directories else own
            if path.is_symlink() or relative not in expected:
                return relative
    return None


@contextlib.contextmanager
def replacing(target: Path, *, size: int) -> Iterator[Path]:
    """A new folder beside ``target`` to write ``size`` bytes to, which takes its place at the end.

    After an exception nothing is left of it, nor of parents made for it, and what was there
    before is untouched. Raises InputError where it cannot be made or the disk is too full.
    """
    made = [parent for parent in target.parents if not parent.exists()]
    unfinished = target.parent / f".unfinished-{uuid.uuid4().hex[:12]}"
    try:
        unfinished.mkdir(parents=True)
        _check_space(target, unfinished, size)
        yield unfinished
        _publish(unfinished, target)
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"{target} cannot be written: {reason}; nothing was kept.") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        for parent in made:  # those that something was put into stay
            with contextlib.suppress(OSError):
                parent.rmdir()


def _check_space(target: Path, folder: Path, size: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < size * 1.02 + 2**20:
        raise InputError(
            f"The disk of {target} is full: the export needs {size / 2**20:,.0f} MiB and "
            f"{free / 2**20:,.0f} MiB are free."
        )


def _publish(unfinished: Path, target: Path) -> None:
    """Rename into place; an earlier export is moved aside first, and back if that fails."""
    if not target.exists():
        os.rename(unfinished, target)
        return
    aside = unfinished.with_name(f"{unfinished.name}-old")
    os.rename(target, aside)
    try:
        os.rename(unfinished, target)
    except OSError:
        os.rename(aside, target)
        raise
    shutil.rmtree(aside, ignore_errors=True)
