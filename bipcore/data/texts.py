"""Where texts come from: named sets, a file of the user's, or the text that CPython ships.

A named set is looked for in the folder `BIPCORE_DATA`, then on the hub. Calibration reads the
training text, or the validation text where that is missing; evaluation reads the test text.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, reason_of
from ..hub import hub_call

NAMED = ("builtin", "wikitext2", "ptb", "c4")
"""The sources that have a name; anything else is the path of a text or JSONL file."""

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
    """

    name: str
    split: str
    identity: str
    continuous: bool
    read: Callable[[], Iterator[str]]


def find_text(name: str, *, purpose: str) -> TextSource:
    """The text called ``name`` for ``purpose``, "calibration" or "test".

    ``name`` is one of `NAMED` or the path of a ``.txt`` or ``.jsonl`` file (a JSON object a
    line, its text under "text"). Raises InputError when a file is missing, empty or not text.
    Reading a hub source may raise InputError too, when it is first read.
    """
    if purpose not in ("calibration", "test"):
        raise ValueError(f"purpose is 'calibration' or 'test', not {purpose!r}")
    if name == "builtin":
        return _builtin(purpose)
    if name in NAMED:
        path = _local_file(name, purpose)
        return _named_file(name, path) if path else _hub_source(name, purpose)
    return _user_file(name)


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
    )


def _local_file(name: str, purpose: str) -> Path | None:
    root = os.environ.get("BIPCORE_DATA")
    if not root:
        return None
    candidates = (Path(root) / relative for relative in _FILES[name, purpose])
    return next((path for path in candidates if path.is_file()), None)


def _named_file(name: str, path: Path) -> TextSource:
    text = _read_utf8(path)
    identity = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    if path.suffix == ".jsonl":
        return TextSource(name, path.stem, identity, False, lambda: _jsonl_texts(text, path))
    joined = _join_lines(name, text.split("\n"))
    return TextSource(name, path.stem, identity, True, lambda: iter([joined]))


def _join_lines(name: str, lines: list[str]) -> str:
    """One text of a named set's lines, as the published perplexities join them."""
    if lines and lines[-1] == "":
        lines = lines[:-1]
    if name == "wikitext2":
        return "\n\n".join(line.rstrip("\n") + "\n" if line.strip() else "" for line in lines)
    return " ".join(line.strip() for line in lines)


def _user_file(name: str) -> TextSource:
    try:
        path = Path(name).expanduser()
        is_folder, exists = path.is_dir(), path.exists()
    except (OSError, RuntimeError):  # a name too long, or of an unknown user's home
        path, is_folder, exists = Path(name), False, False
    if is_folder:
        raise InputError(f"{name} is a folder; give a .txt or .jsonl file of text.")
    if not exists:
        raise InputError(
            f"There is no text called {name!r}: give one of {', '.join(NAMED)}, "
            "or the path of a .txt or .jsonl file that exists."
        )
    text = _read_utf8(path)
    if not text.strip():
        raise InputError(f"{name} is empty; give a file with text in it.")
    identity = f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        documents = list(_jsonl_texts(text, path))
        return TextSource(str(path), "file", identity, False, lambda: iter(documents))
    return TextSource(str(path), "file", identity, True, lambda: iter([text]))


def _read_utf8(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; give a plain text or JSONL file.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}.") from None
    if "\0" in text:
        raise InputError(f"{path} is a binary file; give a plain text or JSONL file.")
    return text


def _jsonl_texts(text: str, path: Path) -> Iterator[str]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            document = json.loads(line)["text"]
            document.encode()
        except (ValueError, KeyError, TypeError, AttributeError):
            document = None
        if not isinstance(document, str):
            raise InputError(
                f'Line {number} of {path} is not a JSON object with its text under "text".'
            )
        yield document


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
