"""Files and folders that are written whole or not at all, and what may be overwritten.

Everything that is written goes through `whole_file` or `whole_folder`: under a temporary name
beside its place, into which it is renamed when it is done.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import InputError, reason_of, short

MANIFEST = "bipcore.json"
MANIFEST_FORMAT = "bipcore-export/1"


def read_manifest(folder: Path) -> dict:
    """The manifest of an earlier export in ``folder``, {} where there is none."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    known = isinstance(manifest, dict) and manifest.get("format") == MANIFEST_FORMAT
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
    except InputError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{short(folder)} cannot be written: {reason_of(error)}.") from None
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


def check_file(path: str | Path, *, kind: str = "", ours: Callable[[Path], bool] | None = None):
    """``path`` as an absolute path, links resolved, if a file may be written there.

    Its folder has to be there. With ``ours`` a file that it does not hold for is left alone; those
    it holds for are called ``kind`` ("a plan"). Raises InputError.
    """
    if not str(path).strip():
        raise InputError("The output file has no name; give one.")
    try:
        said = Path(path).expanduser()
        target = said.resolve()
        is_folder, has_parent = target.is_dir(), target.parent.is_dir()
        strange = ours is not None and target.is_file() and not ours(target)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{short(path)!r} cannot be written: {reason_of(error)}.") from None
    if is_folder:
        raise InputError(f"{said} is a folder; give the name of a file.")
    if strange:
        raise InputError(f"{said} is not {kind}; give a new file, it is not overwritten.")
    if not has_parent:
        raise InputError(f"{said} cannot be written: there is no folder {said.parent}.")
    if not os.access(target if target.exists() else target.parent, os.W_OK):
        raise InputError(f"{said} cannot be written: there is no permission to.")
    return target


def write_text(path: str | Path, text: str) -> Path:
    """Write the file ``path``, whole or not at all; raises InputError where it cannot be."""
    target = check_file(path)
    try:
        with whole_file(target) as unfinished:
            unfinished.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{target} cannot be written: {reason_of(error)}.") from None
    return target


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to, which takes its place at the end; after an exception
    nothing is left of it, and what was there before is untouched."""
    unfinished = _beside(target)
    try:
        yield unfinished
        os.replace(unfinished, target)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()


@contextlib.contextmanager
def whole_folder(
    target: Path,
    *,
    unfinished: Path | None = None,
    publish: Callable[[Path, Path], None] | None = None,
) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``target`` at the end.

    After an exception nothing is left of it, nor of parents made for it, and what was there before
    is untouched. ``unfinished``: its path until then, whose parents stay, since others may write
    there; ``publish``: what puts it into its place.
    """
    made = [] if unfinished else [parent for parent in target.parents if not parent.exists()]
    unfinished = unfinished or _beside(target)
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        (publish or _publish)(unfinished, target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
        for parent in made:  # those that something was put into stay
            with contextlib.suppress(OSError):
                parent.rmdir()


def _beside(target: Path) -> Path:
    return target.parent / f".unfinished-{uuid.uuid4().hex[:12]}"


@contextlib.contextmanager
def replacing(target: Path, *, size: int) -> Iterator[Path]:
    """`whole_folder` for an export of ``size`` bytes. Raises InputError where it cannot be made or
    the disk is too full."""
    try:
        with whole_folder(target) as unfinished:
            _check_space(target, unfinished, size)
            yield unfinished
    except OSError as error:
        raise InputError(
            f"{target} cannot be written: {reason_of(error)}; nothing was kept."
        ) from error


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
