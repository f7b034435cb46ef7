"""The run store: results of frozen specs, under ``cache/<kind>/<digest>/``.

An entry is a folder with ``spec.json`` (the spec, and name, size and SHA-256 of each file) beside
its files. It is written under a temporary name and renamed, so it is whole or not there. An entry
that does not match its ``spec.json`` is set aside and computed again. Processes may share a store.
Its root is marked, and only entries below a marked root are ever removed.
"""

import contextlib
import json
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError, reason_of
from .entries import SPEC, Damaged, check_entry, spec_of, write_manifest
from .inputs import named_path
from .kinds import Kind, Result, digest, is_digest
from .roots import UNMARKED_KINDS, check_root, is_entry_name, is_store, mark, unwritable
from .unfinished import (
    discard,
    is_temporary,
    keep_aside,
    let_read,
    remove,
    sweep,
    sweep_one,
    temporary,
)

_UNREADABLE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    safetensors.SafetensorError,
)
"""What reading a result of another version may lead to."""


def cache_root() -> Path:
    """The folder of the run store: ``BIPCORE_CACHE``; else, in a checkout, ``cache/`` beside the
    package; else ``bipcore/`` in the user's cache folder. Raises InputError where the first can be
    no folder's name."""
    if chosen := os.environ.get("BIPCORE_CACHE"):
        return named_path(chosen, "The folder BIPCORE_CACHE")
    above = Path(__file__).resolve().parents[2]
    if all((above / name).is_file() for name in ("app.py", "pyproject.toml")):
        return above / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bipcore"


@dataclass(frozen=True)
class Entry:
    """What `RunStore.entries` lists: size in bytes, age as a POSIX time; ``whole`` is False for
    what is damaged, was set aside or is still being written, which has no spec."""

    kind: str
    digest: str
    path: Path
    size: int
    written: float
    spec: Any
    whole: bool


class RunStore:
    """Stored results by kind and spec. ``root`` is made when something is first written."""

    def __init__(self, root: Path | str | None = None):
        self.root = Path(root) if root is not None else cache_root()

    def path(self, kind: Kind, spec: Any) -> Path:
        """Where the entry of ``spec`` lies, or would lie."""
        return self.root / kind.name / digest(spec, version=kind.version)

    def folder(self, kind: Kind, spec: Any, build: Callable[[Path], None]) -> Path:
        """The entry's folder; where there is none, ``build(folder)`` fills a new one first."""
        path = self.path(kind, spec)
        if self.find(kind, spec) is not None:
            return path
        mark(self.root)
        try:
            path.parent.mkdir(exist_ok=True)
            sweep(path.parent)
            with temporary(path.parent, f"{path.name}.tmp", is_folder=True) as unfinished:
                build(unfinished)
                write_manifest(unfinished, kind, spec)
                let_read(unfinished)
                _publish(unfinished, path)
        except (OSError, safetensors.SafetensorError) as error:
            raise unwritable(self.root, error) from error
        return path

    def find(self, kind: Kind, spec: Any) -> Path | None:
        """The folder of a whole entry; None where there is none. A damaged one is set aside."""
        path = self.path(kind, spec)
        if not os.path.lexists(path) or not is_store(self.root):
            return None
        try:
            check_entry(path)
        except Damaged as damage:
            self._set_aside(path, str(damage))
            return None
        return path

    def get(self, kind: Kind[Result], spec: Any, compute: Callable[[], Result]) -> Result:
        """The stored result of ``spec``, or that of ``compute()``, stored."""
        result = self.stored(kind, spec)
        if result is None:
            check_root(self.root)  # before hours of work, not after them
            result = compute()
            written = kind.write(result)
            self.folder(kind, spec, lambda new: _write_result(new, *written))
        return result

    def stored(self, kind: Kind[Result], spec: Any) -> Result | None:
        """The stored result of ``spec``; None where there is none."""
        folder = self.find(kind, spec)
        if folder is None:
            return None
        try:
            return _read_result(kind, folder)
        except _UNREADABLE as error:
            if folder.exists():  # else another process has just removed it
                self._set_aside(folder, f"it cannot be read: {reason_of(error)}")
            return None

    def _set_aside(self, path: Path, reason: str) -> None:
        """Take a damaged entry out of the way, with a warning."""
        warnings.warn(
            f"The stored result {path.parent.name}/{path.name} is damaged ({reason}); "
            "computing it again.",
            stacklevel=3,
        )
        with contextlib.suppress(OSError):  # where nothing can be written, nothing is computed
            keep_aside(path, f"{path.name}.damaged")

    def named(self, kind: Kind[Result], name: str) -> Result | None:
        """The stored result whose entry is called ``name``, a digest; None where there is none.

        Raises InputError where it is damaged.
        """
        return self._read_named(kind, name, lambda folder: _read_result(kind, folder))

    def data_of(self, kind: Kind, name: str) -> dict | None:
        """The plain data of the entry called ``name``, its tensors left unread; see `named`."""
        return self._read_named(kind, name, _read_data)

    def _read_named(self, kind: Kind, name: str, read: Callable[[Path], Any]) -> Any:
        folder = self.root / kind.name / name
        if not is_digest(name) or not folder.is_dir() or not is_store(self.root):
            return None
        try:
            check_entry(folder)
            return read(folder)
        except (Damaged, *_UNREADABLE) as error:
            why = reason_of(error)
            raise InputError(
                f"The stored result {kind.name}/{name} is damaged ({why}); make it again."
            ) from None

    def remove(self, kind: Kind, spec: Any) -> None:
        """Remove the entry of ``spec``, if there is one."""
        path = self.path(kind, spec)
        if is_store(self.root) and os.path.lexists(path):
            discard(path)

    def entries(self, kind: Kind | None = None) -> Iterator[Entry]:
        """Everything in the store, or of one kind, unfinished and set-aside entries included, and
        nothing else that may lie there. Of one kind, those that are damaged are warned of."""
        if not is_store(self.root):
            return
        for folder in sorted(self.root.iterdir()):
            is_kind = folder.is_dir() and not folder.is_symlink()
            if is_kind and (kind is None or folder.name == kind.name):
                for entry in _entries_in(folder):
                    if kind is not None and not entry.whole and is_digest(entry.digest):
                        name = f"{kind.name}/{entry.digest}"
                        said = f"The stored result {name} is damaged, and left out."
                        warnings.warn(said, stacklevel=2)
                    yield entry

    def clear(self, kind: str | None = None, *, unfinished_older_than: float = 3600) -> int:
        """Remove entries (of one kind); the bytes freed.

        What another process is writing is left; where that cannot be told, what is younger than so
        many seconds. Raises InputError where the root holds other things than a store's.
        """
        if not os.path.lexists(self.root):
            return 0
        mark(self.root)
        freed = 0
        for entry in list(self.entries()):
            if kind in (None, entry.kind) and _removed(entry.path, unfinished_older_than):
                freed += entry.size
        return freed


def _publish(unfinished: Path, path: Path) -> None:
    """Rename into place; where another process was first and is whole, keep its entry."""
    try:
        os.rename(unfinished, path)
    except OSError:
        try:
            check_entry(path)
        except Damaged:
            keep_aside(path, f"{path.name}.damaged")
            os.rename(unfinished, path)


def _removed(path: Path, older_than: float) -> bool:
    """Remove one entry, if it is one and nobody is writing it; whether it was."""
    if not is_temporary(path.name):
        if not os.path.lexists(path / SPEC) and path.parent.name not in UNMARKED_KINDS:
            return False
        discard(path)
    elif ".damaged-" in path.name:
        remove(path)
    else:
        return sweep_one(path, older_than=older_than)
    return True


def _entries_in(folder: Path) -> Iterator[Entry]:
    for path in sorted(folder.iterdir()):
        if is_entry_name(path.name):
            with contextlib.suppress(OSError):  # another process may have removed it
                yield _entry(path)


def _entry(path: Path) -> Entry:
    try:
        spec, whole = spec_of(path), True
    except Damaged:
        spec, whole = None, False
    files = [file for file in path.rglob("*") if file.is_file()]
    return Entry(
        kind=path.parent.name,
        digest=path.name,
        path=path,
        size=sum(file.stat().st_size for file in files),
        written=path.lstat().st_mtime,
        spec=spec,
        whole=whole,
    )


def _write_result(folder: Path, tensors: dict[str, Tensor], data: dict) -> None:
    (folder / "data.json").write_text(json.dumps(data))
    if tensors:
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "data.safetensors")


def _read_result(kind: Kind[Result], folder: Path) -> Result:
    file = folder / "data.safetensors"
    tensors = load_file(file) if file.exists() else {}
    return kind.read(tensors, _read_data(folder))


def _read_data(folder: Path) -> dict:
    return json.loads((folder / "data.json").read_text())
