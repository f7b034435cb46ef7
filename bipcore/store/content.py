"""The SHA-256 of files, taken once a process as long as a file stays as it is."""

import hashlib
import os
import stat
import time
from pathlib import Path

_CLOCK = 2.0
"""Seconds in which a file system may give two changes of a file the same time."""

_known: dict[tuple, str] = {}


def sha256(file: Path) -> str:
    """The SHA-256 of a regular file, links followed, in hexadecimal digits.

    Kept by what no user can change without a trace: place, inode, size, and the times of the last
    change of content and of inode. Raises OSError where it cannot be read, or is not regular.
    """
    key, settled = state_of(file)
    if key not in _known or not settled:
        taken = _read(file)
        if not settled or state_of(file)[0] != key:
            return taken
        _known[key] = taken
    return _known[key]


def is_known(file: Path) -> bool:
    """Whether `sha256` of a file would be had without reading it."""
    key, settled = state_of(file)
    return settled and key in _known


def state_of(file: Path) -> tuple[tuple, bool]:
    """What tells whether a file has changed, and whether a change now could be told from it.

    The second is False just after a change: another one may get the same times.
    """
    now, found = time.time(), os.stat(file)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(f"{file} is no regular file")
    times = found.st_mtime_ns, found.st_ctime_ns
    key = (os.path.realpath(file), found.st_dev, found.st_ino, found.st_size, *times)
    return key, abs(now - found.st_ctime) > _CLOCK


def _read(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
