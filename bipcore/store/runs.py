"""The run store: results of frozen specs, under ``cache/<kind>/<digest>/``.

An entry is a folder with ``spec.json`` (the spec, and name, size and SHA-256 of each file) beside
its files. It is written under a temporary name and renamed, so it is whole or not there. An entry
that does not match its ``spec.json`` is set aside and computed again. Processes may share a store.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError, reason_of
from .files import whole_folder
from .kinds import Kind, Result, canonical, digest, is_digest

_HASH_LIMIT = 64 * 2**20
_MARKS = (".tmp-", ".damaged-")


def cache_root() -> Path:
    """The folder of the run store: ``BIPCORE_CACHE``; else, in a checkout, ``cache/`` beside the
    package; else ``bipcore/`` in the user's cache folder."""
    if chosen := os.environ.get("BIPCORE_CACHE"):
        return Path(chosen).expanduser()
    above = Path(__file__).resolve().parents[2]
    if all((above / name).is_file() for name in ("app.py", "pyproject.toml")):
        return above / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bipcore"


@dataclass(frozen=True)
class Entry:
    """What `RunStore.entries` lists: size in bytes, age as a POSIX time; ``whole`` is False for
    what was set aside or is still being written."""

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
        unfinished = path.parent / f"{path.name}{_MARKS[0]}{uuid.uuid4().hex[:8]}"
        try:
            with whole_folder(path, unfinished=unfinished, publish=_publish):
                build(unfinished)
                _write_manifest(unfinished, kind, spec)
        except (OSError, safetensors.SafetensorError) as error:
            raise self._unwritable(error) from error
        return path

    def _check_writable(self) -> None:
        """Before hours of work, not after them."""
        try:
            self.root.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error
        if not os.access(self.root, os.W_OK):
            raise self._unwritable("no permission")

    def _unwritable(self, error: Exception | str) -> InputError:
        why = error if isinstance(error, str) else reason_of(error)
        return InputError(
            f"The run store {self.root} cannot be written: {why}; "
            "free some space, or set BIPCORE_CACHE to another folder."
        )

    def find(self, kind: Kind, spec: Any) -> Path | None:
        """The folder of a whole entry; None where there is none. A damaged one is set aside."""
        path = self.path(kind, spec)
        if not path.exists():
            return None
        problem = _problem(path)
        if problem is None:
            return path
        warnings.warn(
            f"The stored result {kind.name}/{path.name} is damaged ({problem}); "
            "computing it again.",
            stacklevel=2,
        )
        _set_aside(path)
        return None

    def get(self, kind: Kind[Result], spec: Any, compute: Callable[[], Result]) -> Result:
        """The stored result of ``spec``, or that of ``compute()``, stored."""
        result = self.stored(kind, spec)
        if result is None:
            self._check_writable()
            result = compute()
            written = kind.write(result)
            self.folder(kind, spec, lambda new: _write_result(new, *written))
        return result

    def stored(self, kind: Kind[Result], spec: Any) -> Result | None:
        """The stored result of ``spec``; None where there is none."""
        folder = self.find(kind, spec)
        return None if folder is None else _read_result(kind, folder)

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
        if not is_digest(name) or not folder.is_dir():
            return None
        try:
            if _problem(folder) is None:
                return read(folder)
        except (OSError, ValueError, KeyError, TypeError):
            pass
        raise InputError(f"The stored result {kind.name}/{name} is damaged; make it again.")

    def remove(self, kind: Kind, spec: Any) -> None:
        """Remove the entry of ``spec``, if there is one."""
        shutil.rmtree(self.path(kind, spec), ignore_errors=True)

    def entries(self, kind: Kind | None = None) -> Iterator[Entry]:
        """Everything in the store, or of one kind, unfinished and set-aside folders included."""
        if not self.root.is_dir():
            return
        for path in sorted(self.root.glob(f"{kind.name if kind else '*'}/*")):
            with contextlib.suppress(FileNotFoundError):  # another process may have removed it
                if path.is_dir():
                    yield _entry(path)

    def clear(self, kind: str | None = None, *, unfinished_older_than: float = 3600) -> int:
        """Remove entries (of one kind); the bytes freed.

        What is being written by another process, younger than so many seconds, is left.
        """
        freed = 0
        for entry in list(self.entries()):
            if kind is not None and entry.kind != kind:
                continue
            busy = _MARKS[0] in entry.digest and time.time() - entry.written < unfinished_older_than
            if not busy:
                shutil.rmtree(entry.path, ignore_errors=True)
                freed += entry.size
        return freed


def _publish(unfinished: Path, path: Path) -> None:
    """Rename into place; where another process was first and is whole, keep its entry."""
    try:
        os.rename(unfinished, path)
    except OSError:
        if _problem(path) is None:
            return
        _set_aside(path)
        os.rename(unfinished, path)


def _entry(path: Path) -> Entry:
    whole = not any(mark in path.name for mark in _MARKS)
    files = [file for file in path.rglob("*") if file.is_file()]
    return Entry(
        kind=path.parent.name,
        digest=path.name,
        path=path,
        size=sum(file.stat().st_size for file in files),
        written=path.stat().st_mtime,
        spec=_read_spec(path) if whole else None,
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


def _write_manifest(folder: Path, kind: Kind, spec: Any) -> None:
    files = {}
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            size = file.stat().st_size
            files[str(file.relative_to(folder))] = {"size": size, "sha256": _sha256(file)}
    manifest = {"version": kind.version, "spec": canonical(spec), "files": files}
    (folder / "spec.json").write_text(json.dumps(manifest, indent=1))


def _sha256(file: Path) -> str | None:
    """The file's SHA-256; None for files too large to read at every look."""
    if file.stat().st_size > _HASH_LIMIT:
        return None
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _problem(folder: Path) -> str | None:
    """What is wrong with an entry, or None."""
    try:
        files = json.loads((folder / "spec.json").read_text())["files"]
        for name, expected in files.items():
            file = folder / name
            if file.stat().st_size != expected["size"]:
                return f"{name} is truncated"
            if expected["sha256"] and _sha256(file) != expected["sha256"]:
                return f"{name} has changed"
            if name.endswith(".safetensors"):
                with safetensors.safe_open(file, framework="pt"):
                    pass
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"unreadable: {reason_of(error)}"
    except safetensors.SafetensorError:
        return "its tensors cannot be read"
    return None


def _set_aside(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):  # another process may have been first
        os.rename(path, path.with_name(f"{path.name}{_MARKS[1]}{uuid.uuid4().hex[:8]}"))


def _read_spec(path: Path) -> Any:
    try:
        return json.loads((path / "spec.json").read_text())["spec"]
    except (OSError, ValueError, KeyError):
        return None
