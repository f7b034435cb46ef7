"""What is written beside its place under a temporary name, and what killed processes left of it.

Whoever writes holds a lock (flock) on the file or folder itself, which ends with the process,
however that ends. So what is left over is told from what is being written, and removed by whoever
writes there next. A lock is seen on its own machine only, which the name says; what comes from
another one is left until it is old.
"""

import contextlib
import ctypes
import fcntl
import functools
import hashlib
import os
import platform
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

OLD = 24 * 3600.0
"""Seconds after which what nobody is known to own is left over."""

_BESIDE = re.compile(r"\.unfinished-(?:(?P<at>[0-9a-f]{8})-)?[0-9a-f]{12}")
_ENTRY = re.compile(r"[0-9a-f]{16}\.(?:tmp|damaged)-(?:(?P<at>[0-9a-f]{8})-)?[0-9a-f]{8,12}")
_ASIDE = re.compile(r"\.aside-(?P<at>[0-9a-f]{8})-[0-9a-f]{12}-(?P<of>[0-9a-f]{8})")
_NAMES = (_BESIDE, _ENTRY, _ASIDE)
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

_kept: list[int] = []


def temporary_name(start: str) -> str:
    """A new temporary name that begins with ``start``: ".unfinished", or a digest with ".tmp" or
    ".damaged"."""
    return f"{start}-{_here()}-{uuid.uuid4().hex[:12]}"


def is_temporary(name: str) -> bool:
    """Whether a file or folder of this name is, or was, temporary."""
    return any(pattern.fullmatch(name) for pattern in _NAMES)


@functools.cache
def _here() -> str:
    """Stands for this machine since it was started: for whom a lock here is seen."""
    try:
        said = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        said = platform.node()
    return _short(said)


def _short(text: str) -> str:
    return hashlib.sha256(os.fsencode(text)).hexdigest()[:8]


@contextlib.contextmanager
def temporary(folder: Path, start: str, *, is_folder: bool) -> Iterator[Path]:
    """A new file or folder in ``folder``, locked; at the end nothing is left under its name."""
    path, lock = _made(folder, start, is_folder=is_folder)
    try:
        yield path
    finally:
        remove(path)
        os.close(lock)


def _made(folder: Path, start: str, *, is_folder: bool) -> tuple[Path, int]:
    """What `temporary` makes; one that somebody took for left over before it was locked, anew."""
    while True:
        path = folder / temporary_name(start)
        if is_folder:
            path.mkdir()
        else:
            path.touch(exist_ok=False)
        with contextlib.suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY)
            if _lock(lock) is not False and _is_at(lock, path):
                return path, lock
            os.close(lock)


def _lock(opened: int) -> bool | None:
    """Whether the lock could be had; None where the file system knows none."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_at(opened: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(opened), os.lstat(path))
    except FileNotFoundError:
        return False


def probe(folder: Path) -> None:
    """Raise OSError where no file can be made in ``folder``; nothing is left of the try."""
    with contextlib.suppress(OSError, AttributeError):
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))  # a file without a name
        return
    with temporary(folder, ".unfinished", is_folder=False):
        pass


def keep_aside(path: Path, start: str) -> None:
    """Give ``path`` a temporary name beginning with ``start``, and own it while this process lives.

    Does nothing where it is gone.
    """
    aside = path.with_name(temporary_name(start))
    with contextlib.suppress(FileNotFoundError):  # another process may have been first
        if stat.S_ISDIR(os.lstat(path).st_mode):
            opened = os.open(path, os.O_RDONLY)
            _lock(opened)
            _kept.append(opened)
        os.rename(path, aside)


def remove(path: Path) -> None:
    """Remove a file, a link or a whole folder, as far as it can be; no link is followed."""
    with contextlib.suppress(OSError):
        if stat.S_ISDIR(os.lstat(path).st_mode):
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink()


def discard(path: Path) -> None:
    """Remove what `remove` does so that nobody sees a part of it; its name is a digest."""
    gone = path.with_name(temporary_name(f"{path.name}.tmp"))
    with contextlib.suppress(OSError):
        os.rename(path, gone)
        remove(gone)


def sweep(folder: Path, *, older_than: float = OLD) -> None:
    """Remove what is left over in ``folder``: of dead processes of this machine, and else what is
    older than so many seconds."""
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if is_temporary(name) and not _ASIDE.fullmatch(name):
                sweep_one(folder / name, older_than=older_than)


def sweep_one(path: Path, *, older_than: float = OLD) -> bool:
    """Remove one thing of a temporary name if it is left over; whether it was."""
    taken = _take(path, older_than)
    if taken is None:
        return False
    remove(path)
    os.close(taken)
    return True


def _take(path: Path, older_than: float) -> int | None:
    """What is left over at ``path``, opened and locked; None where it has an owner, is gone, or is
    neither a file nor a folder."""
    match = next(filter(None, (pattern.fullmatch(path.name) for pattern in _NAMES)), None)
    try:
        mode = os.lstat(path).st_mode
        if match is None or not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
            return None
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    had = _lock(opened)
    if had and match["at"] == _here():
        return opened
    if had is not False and _age(path) > older_than:
        return opened
    os.close(opened)
    return None


def _age(path: Path) -> float:
    """Seconds since anything in ``path`` was last changed."""
    latest = 0.0
    for found in (path, *path.rglob("*")):
        with contextlib.suppress(OSError):
            latest = max(latest, os.lstat(found).st_mtime)
    return time.time() - latest


def let_read(folder: Path) -> None:
    """Let others read the files as far as the user's mask lets them: safetensors does not."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~umask)


def publish(unfinished: Path, target: Path) -> None:
    """Give a folder the name ``target``. An earlier one there takes the temporary name, in one step
    where the system can do that; else it is moved aside before, and `finish` puts right what a kill
    between the two left."""
    if not os.path.lexists(target):
        os.rename(unfinished, target)
    elif not _exchange(unfinished, target):
        _replace(unfinished, target)


def _replace(unfinished: Path, target: Path) -> None:
    aside = target.with_name(f"{temporary_name('.aside')}-{_short(target.name)}")
    lock = os.open(target, os.O_RDONLY)
    try:
        _lock(lock)
        os.rename(target, aside)
        try:
            os.rename(unfinished, target)
        except BaseException:
            os.rename(aside, target)
            raise
        remove(aside)
    finally:
        os.close(lock)


def finish(target: Path) -> None:
    """Put right what was left where a folder at ``target`` was being replaced: the earlier one goes
    back where there is no other, and is removed where there is."""
    with contextlib.suppress(OSError):
        for name in os.listdir(target.parent):
            match = _ASIDE.fullmatch(name)
            if match is None or match["of"] != _short(target.name):
                continue
            taken = _take(aside := target.with_name(name), OLD)
            if taken is None:
                continue
            if os.path.lexists(target):
                remove(aside)
            else:
                os.rename(aside, target)
            os.close(taken)


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step (Linux); False where that cannot be done."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    paths = os.fsencode(first), os.fsencode(second)
    return rename(_AT_FDCWD, paths[0], _AT_FDCWD, paths[1], _RENAME_EXCHANGE) == 0
