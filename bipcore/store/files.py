"""What may be written to, and files and folders that are written whole or not at all.

A target is missing, a regular file, or a folder of ours; a link stands for what it points to.
Everything that is written goes through `whole_file` or `whole_folder`: under a temporary name
beside its place, into which it is renamed when it is done.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ..errors import InputError, reason_of, short
from .inputs import kind_of, read_json
from .unfinished import finish, let_read, probe, publish, sweep, temporary

MANIFEST = "bipcore.json"
MANIFEST_FORMAT = "bipcore-export/1"
_LONGEST = 3500
"""Bytes of a folder's path: a system knows about 4,096, and files have to lie in it."""


def read_manifest(folder: Path, name: str = MANIFEST) -> dict:
    """The manifest ``name`` of an earlier export in ``folder``, {} where there is none."""
    try:
        manifest = read_json(folder / name, "The manifest")
    except InputError:
        return {}
    known = isinstance(manifest, dict) and manifest.get("format") == MANIFEST_FORMAT
    files = manifest.get("files") if known else None
    sizes = files.values() if isinstance(files, dict) else ()
    return manifest if sizes and all(type(size) is int for size in sizes) else {}


def check_destination(folder: str | Path) -> Path:
    """``folder`` as an absolute path, links resolved, if an export may be written there.

    It may be missing, empty, or an earlier export that nothing was added to; where one was being
    replaced by a process that was killed, that is put right first. Raises InputError.
    """
    said, target, mode = _look_at(folder, "folder")
    if mode is not None and not stat.S_ISDIR(mode):
        kind = "a file" if stat.S_ISREG(mode) else kind_of(mode)
        raise InputError(f"{short(said)} is {kind}; give a folder to write to.")
    if _works_in(target):
        raise InputError(f"{target} is in use as the working folder; give a folder of its own.")
    if os.path.ismount(target):
        raise InputError(f"{target} is where a disk is mounted; give a folder in it.")
    if len(os.fsencode(target)) > _LONGEST:
        raise InputError(f"{short(said)} cannot be written: its path is too long.")
    finish(target)
    try:
        strange = _first_strange(target)
    except OSError as error:
        raise InputError(f"{short(said)} cannot be read: {reason_of(error)}.") from None
    if strange is not None:
        raise InputError(
            f"{short(said)} holds something else ({short(strange)}); give an empty or new folder."
        )
    _check_parent(said, next(p for p in target.parents if os.path.lexists(p)))
    return target


def _works_in(target: Path) -> bool:
    try:
        return Path.cwd().is_relative_to(target)
    except FileNotFoundError:  # it was removed
        return False


def _first_strange(target: Path) -> str | None:
    """The first thing in ``target`` that no export of ours put there; raises OSError."""
    if not target.is_dir():
        return None
    files = set(read_manifest(target).get("files", {}))
    own = files | ({MANIFEST} if files else set())
    folders = {str(parent) for name in own for parent in Path(name).parents} - {"."}
    for root, directories, names in os.walk(target, onerror=_raise):
        for name in (*directories, *names):
            path = Path(root, name)
            relative = str(path.relative_to(target))
            expected = folders if name in directories else own
            if path.is_symlink() or relative not in expected:
                return relative
    return None


def _raise(error: OSError) -> None:
    raise error


def check_file(
    path: str | Path,
    *,
    kind: str = "",
    ours: Callable[[Path], bool] | None = None,
    force: bool = False,
) -> Path:
    """``path`` as an absolute path, links resolved, if a file may be written there.

    Its folder has to be there. With ``ours`` a file that it does not hold for is left alone, but
    for an empty one, and with ``force``; those it holds for are called ``kind`` ("a plan"). Raises
    InputError.
    """
    said, target, mode = _look_at(path, "file")
    if mode is not None and stat.S_ISDIR(mode):
        raise InputError(f"{short(said)} is a folder; give the name of a file.")
    if mode is not None and not stat.S_ISREG(mode):
        raise InputError(f"{short(said)} is {kind_of(mode)}; give the name of a regular file.")
    if not os.path.lexists(target.parent):
        missing = target.parent if os.path.lexists(said) else said.parent
        raise InputError(f"{short(said)} cannot be written: there is no folder {short(missing)}.")
    _check_parent(said, target.parent)
    if mode is not None:
        _check_replaceable(said, target, kind=kind, ours=None if force else ours)
    return target


def _check_replaceable(
    said: Path, target: Path, *, kind: str, ours: Callable[[Path], bool] | None
) -> None:
    """Raise InputError where the file ``target`` is not to be overwritten."""
    if not os.access(target, os.W_OK):
        raise InputError(f"{short(said)} cannot be written: there is no permission to.")
    try:
        strange = ours is not None and target.stat().st_size > 0 and not ours(target)
    except OSError as error:
        raise InputError(f"{short(said)} cannot be read: {reason_of(error)}.") from None
    if strange:
        raise InputError(
            f"{short(said)} is not {kind} and is not overwritten; give a new file, or --force."
        )


def _look_at(path: str | Path, what: str) -> tuple[Path, Path, int | None]:
    """``path`` as it was said, as an absolute path with links resolved, and the mode of what is
    there, None for nothing. Raises InputError where there can be no such path."""
    if not str(path).strip():
        raise InputError(f"The output {what} has no name; give one.")
    try:
        said = Path(path).expanduser()
        target = said.resolve()
        try:
            found = said.stat()
        except FileNotFoundError:
            return said, target, None
        if stat.S_ISREG(found.st_mode) and not os.path.samestat(found, target.stat()):
            raise InputError(f"{short(said)} cannot be followed; give the {what} itself.")
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{short(path)} cannot be written: {reason_of(error)}.") from None
    return said, target, found.st_mode


def _check_parent(said: Path, parent: Path) -> None:
    """Raise InputError where nothing can be made in ``parent``, which is there."""
    if not parent.is_dir():
        raise InputError(f"{short(said)} cannot be written: {short(parent)} is no folder.")
    try:
        probe(parent)
    except OSError as error:
        raise InputError(
            f"{short(said)} cannot be written: {reason_of(error)}, in {short(parent)}."
        ) from None


def write_text(path: str | Path, text: str) -> Path:
    """Write the file ``path``, whole or not at all; raises InputError where it cannot be."""
    target = check_file(path)
    try:
        with whole_file(target) as unfinished:
            unfinished.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        raise InputError(f"{target} cannot be written: {reason_of(error)}.") from None
    return target


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path beside ``target`` to write to, which takes its place at the end; after an exception
    nothing is left of it, and what was there before is untouched."""
    sweep(target.parent)
    with temporary(target.parent, ".unfinished", is_folder=False) as unfinished:
        yield unfinished
        with contextlib.suppress(OSError):
            shutil.copymode(target, unfinished)
        os.replace(unfinished, target)


@contextlib.contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of ``target`` at the end.

    After an exception nothing is left of it, nor of parents made for it, and what was there before
    is untouched.
    """
    with _folder_beside(target) as unfinished:
        yield unfinished
        publish(unfinished, target)


@contextlib.contextmanager
def _folder_beside(target: Path) -> Iterator[Path]:
    """A temporary folder beside ``target``; of it, and of parents made for it, nothing is left
    that nothing was put into."""
    made = [parent for parent in target.parents if not parent.exists()]
    try:
        for parent in reversed(made):
            parent.mkdir(exist_ok=True)
        sweep(target.parent)
        with temporary(target.parent, ".unfinished", is_folder=True) as unfinished:
            yield unfinished
    finally:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()


@contextlib.contextmanager
def replacing(target: Path, *, size: int) -> Iterator[Path]:
    """`whole_folder` for an export of ``size`` bytes, for others to read. Raises InputError where
    it cannot be made, the disk is too full, or something else was put there meanwhile."""
    with _refusing(target), whole_folder(target) as unfinished:
        _check_space(target, unfinished, size)
        yield unfinished
        let_read(unfinished)
        check_destination(target)


@contextlib.contextmanager
def _refusing(target: Path) -> Iterator[None]:
    """Raise InputError where a system lets ``target`` not be written."""
    try:
        yield
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


def check_files(path: str | Path, marks: Mapping[str, bytes]) -> Path:
    """``path`` as an absolute path, if a file may be written there with others beside it.

    ``marks``: for the name of each of them bytes among the first 4,096 by which one of ours is
    known; another, but for an empty one, is left alone. Their folder may be missing. Raises
    InputError.
    """
    said, target, _ = _look_at(path, "file")
    if len(os.fsencode(target)) > _LONGEST:
        raise InputError(f"{short(said)} cannot be written: its path is too long.")
    parent = next(p for p in target.parents if os.path.lexists(p))
    if parent != target.parent:
        _check_parent(said, parent)
    else:
        for name, mark in marks.items():
            _check_ours(said.parent / name, mark)
    return target


def _check_ours(file: Path, mark: bytes) -> None:
    """Raise InputError where ``file`` cannot be written, or is there and does not have ``mark``."""
    target = check_file(file)
    try:
        with target.open("rb") as opened:
            start = opened.read(4096)
    except FileNotFoundError:
        return
    except OSError as error:
        raise InputError(f"{short(file)} cannot be read: {reason_of(error)}.") from None
    if start and mark not in start:
        raise InputError(
            f"{short(file)} is no part of an export of bipcore and is not overwritten; give "
            "another name."
        )


@contextlib.contextmanager
def replacing_files(target: Path, marks: Mapping[str, bytes], *, size: int) -> Iterator[Path]:
    """A new folder to write the file ``target`` and those beside it to, which take their places at
    the end, each whole, the last of ``marks`` last. Where something fails before that nothing is
    left, and what was there is untouched.

    ``size`` is about what they take. The last file says that all are there: an earlier one goes
    first, so that none is left beside files of another export. Raises InputError.
    """
    with _refusing(target), _folder_beside(target) as unfinished:
        _check_space(target, unfinished, size)
        yield unfinished
        let_read(unfinished)
        check_files(target, marks)
        *first, last = marks
        (target.parent / last).unlink(missing_ok=True)
        for name in (*first, last):
            os.replace(unfinished / name, target.parent / name)
