"""The run store: results of frozen specs, under ``cache/<kind>/<digest>/``.

An entry is a folder with ``spec.json`` (the spec, and name, size and SHA-256 of each file) beside
its files. It is written under a temporary name and renamed, so it is whole or not there. An entry
that does not match its ``spec.json`` is set aside and computed again. Processes may share a store.
Its root is marked, and only entries below a marked root are ever removed.
"""

import contextlib
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import InputError, reason_of
from .entries import (
    DATA,
    SPEC,
    Damaged,
    Glance,
    check_entry,
    glance,
    plain_data,
    write_manifest,
)
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
    what is damaged, was set aside or is still being written, which has no spec.

    ``version`` is that of the kind when it was written, ``made`` what was said of how it came to be
    (see `RunStore.get`), empty for entries of older versions, ``files`` what the manifest says of
    its files; ``fault`` why it is not as it was written, as far as manifest and sizes show.
    """

    kind: str
    digest: str
    path: Path
    size: int
    written: float
    spec: Any
    whole: bool
    version: Any = None
    made: Mapping[str, Any] = field(default_factory=dict)
    fault: str = ""
    files: Mapping[str, Any] = field(default_factory=dict, repr=False)


Made = Callable[[], Mapping[str, Any]]
"""Says how a result was made, once it is: plain data."""


class RunStore:
    """Stored results by kind and spec. ``root`` is made when something is first written."""

    def __init__(self, root: Path | str | None = None):
        self.root = Path(root) if root is not None else cache_root()

    def path(self, kind: Kind, spec: Any) -> Path:
        """Where the entry of ``spec`` lies, or would lie."""
        return self.root / kind.name / digest(spec, version=kind.version)

    def folder(
        self, kind: Kind, spec: Any, build: Callable[[Path], None], made: Mapping | None = None
    ) -> Path:
        """The entry's folder; where there is none, ``build(folder)`` fills a new one first.

        ``made`` is kept beside its spec, with the time that it is written ``at`` and, unless it
        says otherwise, the ``seconds`` that this took.
        """
        path = self.path(kind, spec)
        if self.find(kind, spec) is not None:
            return path
        mark(self.root)
        try:
            path.parent.mkdir(exist_ok=True)
            sweep(path.parent)
            with temporary(path.parent, f"{path.name}.tmp", is_folder=True) as unfinished:
                started = time.perf_counter()
                build(unfinished)
                facts = {"at": time.time(), "seconds": time.perf_counter() - started}
                write_manifest(unfinished, kind, spec, facts | dict(made or {}))
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

    def get(
        self,
        kind: Kind[Result],
        spec: Any,
        compute: Callable[[], Result],
        made: Made = dict,
    ) -> Result:
        """The stored result of ``spec``, or that of ``compute()``, stored.

        With it is kept how long that took, in ``seconds``, and what ``made()`` says afterwards:
        what a list of results tells of it and the spec does not, as a plan of which that has the
        digest alone. No result may depend on it.
        """
        result = self.stored(kind, spec)
        if result is None:
            check_root(self.root)  # before hours of work, not after them
            result, facts = timed(compute, made)
            written = kind.write(result)
            self.folder(kind, spec, lambda new: _write_result(new, *written), facts)
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
            if _is_folder(folder) and (kind is None or folder.name == kind.name):
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

    def delete(self, entries: Iterable[Entry], *, unfinished_older_than: float = 3600) -> int:
        """Remove these entries of this store, damaged ones too; the bytes freed. What is gone by
        now, and what `clear` leaves, is left. Raises InputError as `clear` does."""
        asked, freed = list(entries), 0
        if asked:
            mark(self.root)
        for entry in asked:
            folder = self.root / entry.kind
            named = entry.path == folder / entry.digest and is_entry_name(entry.digest)
            is_kind = entry.kind not in ("", ".", "..") and os.sep not in entry.kind
            if not (named and is_kind and _is_folder(folder)):
                continue
            there = os.path.lexists(entry.path)
            if there and _removed(entry.path, unfinished_older_than, named=True):
                freed += entry.size
        return freed


def plain_data_of(entry: Entry) -> dict:
    """The plain data of a whole entry, checked, its tensors unread: empty where it has none, or
    very much of it. Raises Damaged."""
    return plain_data(entry.path, entry.files)


def timed(compute: Callable[[], Result], made: Made) -> tuple[Result, dict[str, Any]]:
    """What ``compute()`` gives, and how it was made: the seconds it took, unless ``made()`` says
    them otherwise, and what else that says."""
    started = time.perf_counter()
    result = compute()
    return result, {"seconds": time.perf_counter() - started} | dict(made())


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


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


def _removed(path: Path, older_than: float, *, named: bool = False) -> bool:
    """Remove one entry, if it is one, or is ``named`` by the user as one, and nobody is writing it;
    whether it was."""
    if not is_temporary(path.name):
        sure = named or path.parent.name in UNMARKED_KINDS or os.path.lexists(path / SPEC)
        if not sure:
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
    found = _look(path)
    manifest = found.manifest or {}
    made = manifest.get("made")
    return Entry(
        kind=path.parent.name,
        digest=path.name,
        path=path,
        size=found.size,
        written=path.lstat().st_mtime,
        spec=manifest.get("spec"),
        whole=found.manifest is not None,
        version=manifest.get("version"),
        made=made if isinstance(made, dict) else {},
        fault=found.fault,
        files=manifest.get("files", {}),
    )


def _look(path: Path) -> Glance:
    """A look at an entry; what cannot be listed, as a file instead of a folder, is damaged. Raises
    OSError where it is gone."""
    try:
        return glance(path)
    except OSError as error:
        return Glance(None, path.lstat().st_size, f"it cannot be read: {reason_of(error)}")


def _write_result(folder: Path, tensors: dict[str, Tensor], data: dict) -> None:
    (folder / DATA).write_text(json.dumps(data))
    if tensors:
        save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "data.safetensors")


def _read_result(kind: Kind[Result], folder: Path) -> Result:
    file = folder / "data.safetensors"
    tensors = load_file(file) if file.exists() else {}
    return kind.read(tensors, _read_data(folder))


def _read_data(folder: Path) -> dict:
    return json.loads((folder / DATA).read_text())
