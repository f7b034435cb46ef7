"""Reading what a user names: regular files, not too large, and the JSON in them.

A device, a FIFO or a socket is never opened: reading it may never begin, or never end.
"""

import contextlib
import json
import stat
from pathlib import Path
from typing import Any

from ..errors import InputError, reason_of, short

MOST_TEXT = 2**28
"""Bytes of a settings file, a plan or the like: 256 MiB is far beyond any of them."""


def named_path(name: str | Path, what: str) -> Path:
    """The path that a user wrote, ``~`` resolved. ``what``: what it is of ("The plan").

    Raises InputError where there can be no such path: an unknown user's home, a NUL.
    """
    try:
        path = Path(name).expanduser()
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            path.stat()
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"{what} {short(name)} cannot be read: {reason_of(error)}.") from None
    return path


def regular_file(name: str | Path, what: str) -> Path:
    """The path of an existing regular file, links followed. Raises InputError for anything else."""
    path = named_path(name, what)
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise InputError(f"{what} {short(path)} cannot be read: {reason_of(error)}.") from None
    if stat.S_ISDIR(mode):
        raise InputError(f"{what} {short(path)} is a folder; give a file.")
    if not stat.S_ISREG(mode):
        raise InputError(f"{what} {short(path)} is {kind_of(mode)}; give a regular file.")
    return path


def read_text(name: str | Path, what: str, *, most: int = MOST_TEXT) -> str:
    """The UTF-8 text of a regular file, without a byte order mark.

    Raises InputError where it is none, cannot be read, is not UTF-8, or has more than ``most``
    bytes.
    """
    path = regular_file(name, what)
    try:
        size = path.stat().st_size
        if size > most:
            raise InputError(
                f"{what} {short(path)} has {size / 2**20:,.0f} MiB, and {most / 2**20:,.0f} MiB "
                "are the most that is read; give a smaller file."
            )
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"{what} {short(path)} cannot be read: {reason_of(error)}.") from None
    except UnicodeDecodeError:
        raise InputError(f"{what} {short(path)} is not UTF-8 text.") from None


def parse_json(text: str, what: str) -> Any:
    """``text`` as JSON. Raises InputError, saying ``what`` is not JSON and where it breaks off."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        why = f"{error.msg}, line {error.lineno}"
    except (RecursionError, ValueError) as error:
        why = reason_of(error)
    raise InputError(f"{what} is not JSON that can be read: {why}.")


def read_yaml(name: str | Path, what: str, *, most: int = MOST_TEXT) -> Any:
    """The YAML in a regular file. Raises InputError as `read_text` does, and where it is none."""
    import yaml

    text = read_text(name, what, most=most)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        why = str(getattr(error, "problem", None) or error).splitlines()[0]
    except (RecursionError, ValueError, LookupError, TypeError, AttributeError) as error:
        where, why = "", reason_of(error)  # what the parts of a date or a number are made with
    raise InputError(f"{what} {short(name)} is not YAML that can be read{where}: {short(why)}.")


def read_json(name: str | Path, what: str, *, most: int = MOST_TEXT) -> Any:
    """`parse_json` of `read_text`."""
    return parse_json(read_text(name, what, most=most), f"{what} {short(name)}")


def kind_of(mode: int) -> str:
    """What a file is that is neither a regular one nor a folder, for a sentence."""
    kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    return next((word for test, word in kinds if test(mode)), "a device")
