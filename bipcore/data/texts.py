"""Where texts come from: named sets, a file of the user's, or the text that CPython ships.

A named set is looked for in the folder `BIPCORE_DATA`, then on the hub. Calibration reads the
training text, or the validation text where that is missing; evaluation reads the test text.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, reason_of, short
from ..hub import hub_call
from ..store.content import sha256
from ..store.inputs import named_path
from .documents import RECORDS, Document, check_size, kind_of, read_documents, read_plain

NAMED = ("builtin", "wikitext2", "ptb", "c4")
"""The sources that have a name; anything else is the path of a file."""

FILES = ".txt, .json, .jsonl, .csv, .tsv or .parquet file"
"""The files of texts that are read, for a sentence."""

_FILES = {
    ("wikitext2", "calibration"): ("wikitext2/train.txt", "wikitext2/validation.txt"),
    ("wikitext2", "test"): ("wikitext2/test.txt",),
    ("ptb", "calibration"): ("ptb/train.txt", "ptb/validation.txt", "ptb/valid.txt"),
    ("ptb", "test"): ("ptb/test.txt",),
    ("c4", "calibration"): ("c4/train.jsonl", "c4/c4_en_sample.jsonl"),
    ("c4", "test"): ("c4/validation.jsonl",),
}


@dataclass(frozen=True)
class TextSource:
    """A text that was found: its name, which part of it, and what identifies its content.

    ``read()`` yields the documents in order; a ``continuous`` source yields one, the whole text.
    Conversations are not texts yet: see `chats.as_texts`. ``size``: about how many characters it
    has; None where that is not known before it is fetched.
    """

    name: str
    split: str
    identity: str
    continuous: bool
    read: Callable[[], Iterator[Document]]
    size: int | None = None


def find_text(name: str, *, purpose: str, field: str = "") -> TextSource:
    """The text called ``name`` for ``purpose``, "calibration" or "test".

    ``name`` is one of `NAMED`, or the path of a file: a text, or records (JSON, CSV, Parquet) that
    have theirs under ``field`` (see `documents.read_documents`; no other text has fields). Raises
    InputError when a file is missing, is none, or is larger than is read. It is not opened but to
    see whether it has changed, so reading may raise InputError, too.
    """
    if purpose not in ("calibration", "test"):
        raise ValueError(f"purpose is 'calibration' or 'test', not {purpose!r}")
    if name == "builtin":
        return _builtin(purpose)
    if name in NAMED:
        path = _local_file(name, purpose)
        return _named_file(name, path) if path else _hub_source(name, purpose)
    return _user_file(name, field)


def _builtin(purpose: str) -> TextSource:
    """The language reference inside CPython; every fifth topic is the test text."""
    from pydoc_data.topics import topics

    ordered = [topics[key] for key in sorted(topics)]
    chosen = [text for i, text in enumerate(ordered) if (i % 5 == 4) == (purpose == "test")]
    digest = hashlib.sha256("\0".join(chosen).encode()).hexdigest()
    return TextSource(
        name="builtin",
        split=f"Python language reference, {purpose} topics",
        identity=f"sha256:{digest}",
        continuous=False,
        read=lambda: iter(chosen),
        size=sum(map(len, chosen)),
    )


def _local_file(name: str, purpose: str) -> Path | None:
    root = os.environ.get("BIPCORE_DATA")
    if not root:
        return None
    candidates = (Path(root) / relative for relative in _FILES[name, purpose])
    return next((path for path in candidates if path.is_file()), None)


def _named_file(name: str, path: Path) -> TextSource:
    if kind_of(path) in RECORDS:
        return _of_file(name, path.stem, path, lambda: read_documents(path))

    def read() -> Iterator[str]:
        yield _join_lines(name, read_plain(path).split("\n"))

    return _of_file(name, path.stem, path, read)


def _of_file(name: str, split: str, path: Path, read: Callable) -> TextSource:
    """The text in a file; raises InputError for what is none."""
    try:
        size, identity = check_size(path).stat().st_size, f"sha256:{sha256(path)}"
    except OSError as error:
        raise InputError(f"{short(path)} cannot be read: {reason_of(error)}.") from None
    return TextSource(name, split, identity, kind_of(path) not in RECORDS, read, size)


def _join_lines(name: str, lines: list[str]) -> str:
    """One text of a named set's lines, as the published perplexities join them."""
    if lines and lines[-1] == "":
        lines = lines[:-1]
    if name == "wikitext2":
        return "\n\n".join(line.rstrip("\n") + "\n" if line.strip() else "" for line in lines)
    return " ".join(line.strip() for line in lines)


def _user_file(name: str, field: str) -> TextSource:
    path = named_path(name, "The text")
    if path.is_dir():
        raise InputError(f"{short(name)} is a folder; give a {FILES}.")
    if not name or not path.exists():
        raise InputError(
            f"There is no text called {short(name)!r}: give one of {', '.join(NAMED)}, "
            f"or the path of a {FILES} that exists."
        )
    if kind_of(path) in RECORDS:
        return _of_file(str(path), "file", path, functools.partial(read_documents, path, field))

    def read() -> Iterator[str]:
        text = read_plain(path)
        if not text.strip():
            raise InputError(f"{short(name)} is empty; give a file with text in it.")
        yield text

    return _of_file(str(path), "file", path, read)


def _hub_source(name: str, purpose: str) -> TextSource:
    split = "test" if purpose == "test" else "train"
    readers = {"wikitext2": _hub_wikitext2, "ptb": _hub_ptb, "c4": _hub_c4}
    if name == "c4" and split == "test":
        split = "validation"
    return TextSource(
        name=name,
        split=split,
        identity="hub",
        continuous=name != "c4",
        read=lambda: readers[name](split),
    )


def _hub_wikitext2(split: str) -> Iterator[str]:
    rows = _load_dataset("wikitext2", "Salesforce/wikitext", "wikitext-2-raw-v1", split=split)
    yield _join_lines("wikitext2", [row["text"] for row in rows])


def _hub_ptb(split: str) -> Iterator[str]:
    rows = _load_dataset(
        "ptb", "ptb-text-only/ptb_text_only", revision="refs/convert/parquet", split=split
    )
    yield _join_lines("ptb", [row["sentence"] for row in rows])


def _hub_c4(split: str) -> Iterator[str]:
    shard = "c4-train.00000-of-01024" if split == "train" else "c4-validation.00000-of-00008"
    files = {split: f"en/{shard}.json.gz"}
    rows = _load_dataset("c4", "allenai/c4", data_files=files, split=split, streaming=True)
    try:
        for row in rows:
            yield row["text"]
    except OSError as error:
        raise InputError(
            f"Reading c4 from the hub stopped: {reason_of(error)}; try again."
        ) from None


def _load_dataset(name: str, *args, **options):
    from datasets import load_dataset

    root = os.environ.get("BIPCORE_DATA")
    tried = f"not in BIPCORE_DATA ({root})" if root else "BIPCORE_DATA is not set"
    return hub_call(
        lambda: load_dataset(*args, **options),
        lambda reason: (
            f"The text {name!r} was not found: {tried}, and the hub gave nothing ({reason}); "
            "set BIPCORE_DATA to a folder that has it, or use 'builtin' or a file of your own."
        ),
    )
