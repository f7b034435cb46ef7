"""Things that are no regular file, made in a folder of the test's own, to be refused."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


def _device(path: Path) -> None:
    """As /dev/null is, or a FIFO where only root may make one."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 3))
    except PermissionError:
        os.mkfifo(path)


def _link(path: Path) -> None:
    (made := path.with_name(f"{path.name}-linked")).exists() or os.mkfifo(made)
    path.symlink_to(made)


SPECIAL: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a socket": _socket,
    "a device": _device,
    "a link to a FIFO": _link,
}
"""What makes one at a path, by what it is."""


def state(folder: Path) -> dict[str, tuple]:
    """What there is below ``folder``: of everything its kind, and of files their content."""
    found = {}
    for path in sorted(folder.rglob("*")):
        mode = path.lstat().st_mode
        said = os.readlink(path) if stat.S_ISLNK(mode) else ""
        content = path.read_bytes() if stat.S_ISREG(mode) else said
        found[str(path.relative_to(folder))] = (stat.S_IFMT(mode), content)
    return found
