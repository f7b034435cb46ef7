"""The exceptions that bipcore raises on purpose, and how those of others are said."""

import errno
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave cannot be used.

    The message is one plain sentence that says what was wrong and what to do; the command
    line prints it and exits with status 2, a page shows it in an error box.
    """


class Cancelled(Exception):
    """Raised out of a progress callable to stop the computation that called it."""


LARGEST_SEED = 2**63 - 1

_NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "out of memory",
    "enforce fail at alloc_cpu",
    "bad_alloc",
    "bad allocation",
    "unable to allocate",
    "alloc_failed",
    "storage size calculation overflowed",
)
"""How libraries say that there is no memory left, in a RuntimeError, in small letters."""

_MACHINE = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EROFS,
    errno.EIO,
    errno.EMFILE,
    errno.ENFILE,
)
"""What an OSError says of a machine that has no more to give, wherever it happens."""


def check_seed(seed: int) -> None:
    """Raise InputError for a seed that generators do not take."""
    if not 0 <= seed <= LARGEST_SEED:
        raise InputError(f"A seed is a whole number from 0 to 2^63 - 1, not {seed}.")


def listed(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def short(text: object, most: int = 200) -> str:
    """``text`` as a sentence can say it: on one line, and not longer than ``most`` characters."""
    line = printable(str(text))
    return line if len(line) <= most else f"{line[: most - 1]}…"


def is_text(word: str) -> bool:
    """Whether ``word`` can be a name, a path or the like: all of it can be written as UTF-8, and
    no NUL is in it."""
    return "\0" not in word and not any("\ud800" <= c <= "\udfff" for c in word)


def printable(text: str, *, keep: str = "") -> str:
    """``text`` without what a terminal would obey instead of showing it: control characters but
    for those in ``keep``, and what is no character at all."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


def reason_of(error: BaseException) -> str:
    """Why something failed, as the end of a sentence without its stop.

    It says something whatever the exception: some have a text for programmers, some none.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    if isinstance(error, UnicodeError):
        return "it is not UTF-8 text"
    if _no_memory(error):
        return "there is not enough memory"
    if isinstance(error, KeyError) and error.args:
        return f"it has no {short(repr(error.args[0]))}"
    if isinstance(error, (LookupError, TypeError, AttributeError)):
        return "it is not of the form that is expected"
    if "integer string conversion" in str(error):
        return "it has a number with too many digits"
    said = str(error) if any(error.args) else ""
    lines = said.strip().splitlines() or ["no reason is given"]
    whole = " ".join(line.strip() for line in lines[: 2 if lines[0].endswith(":") else 1])
    return short(whole).rstrip(".:")


def explain(error: BaseException) -> str | None:
    """One sentence for an error that a user can do something about; None for a bug."""
    if isinstance(error, InputError):
        return str(error)
    if _no_memory(error):
        return (
            "There is not enough memory for this; use a smaller model, fewer or shorter samples, "
            "or a device with more."
        )
    if isinstance(error, OSError) and error.errno in _MACHINE:
        where = f" ({short(error.filename)})" if error.filename is not None else ""
        return f"Reading or writing failed: {reason_of(error)}{where}; make room and try again."
    return None


def _no_memory(error: BaseException) -> bool:
    """Whether an exception says that memory ran out: libraries have several of their own."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return any(words in said for words in _NO_MEMORY)
