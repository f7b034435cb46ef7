"""Ways in which a file or folder on a disk comes to harm."""

import shutil
from collections.abc import Callable
from pathlib import Path


def _flip(file: Path) -> None:
    """One bit in the middle, in place."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    with file.open("r+b") as opened:
        opened.write(content)


def _folder(file: Path) -> None:
    file.unlink()
    file.mkdir()


def _link(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


DAMAGE: dict[str, Callable[[Path], None]] = {
    "a bit flipped": _flip,
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-1]),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b" x"),
    "emptied": lambda file: file.write_bytes(b""),
    "removed": lambda file: file.unlink(),
    "a folder": _folder,
    "a dangling link": _link,
    "[]": lambda file: file.write_text("[]"),
    "nested": lambda file: file.write_text("[" * 100_000),
}
"""What may become of a file."""


def copied(source: Path, target: Path) -> None:
    """Put what is at ``source`` into the place of ``target``."""
    shutil.rmtree(target)
    shutil.copytree(source, target)
