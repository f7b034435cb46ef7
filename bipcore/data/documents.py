"""The texts in a file that a user names: plain text, or records (JSON, CSV, Parquet) with a field.

Plain and compressed (``.gz``) files are read. A record's text stands under a field, "text" where
none is named; without one, the messages of a conversation do, too. Records with nothing but
blanks in them are left out.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError, reason_of, short
from ..store.inputs import MOST_TEXT, parse_json, regular_file

Messages = list[dict[str, Any]]
Document = str | Messages
"""A text, or the messages of a conversation, each with a "role" and its "content"."""

MOST = 2**30
"""Bytes of a file of texts that are read at most, packed or not: 1 GiB."""

RECORDS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet")
"""The ends of files of records; a file with another is one plain text."""

_MOST_BLANK = 2**20
_FIELD, _MESSAGES = "text", "messages"
_BINARY = "is a binary file; give a plain text, or a JSON, CSV or Parquet file"


def kind_of(path: Path) -> str:
    """The end of a file's name that says what is in it, in small letters, ``.gz`` aside."""
    name = path.name.lower().removesuffix(".gz")
    return Path(name).suffix


def check_size(path: Path) -> Path:
    """``path`` as a regular file of texts; raises InputError for another, or a larger one."""
    path = regular_file(path, "The text")
    if path.stat().st_size > MOST:
        raise _too_large(path)
    return path


def read_plain(path: Path) -> str:
    """The whole text of a file; raises InputError where it is not UTF-8."""
    with _opened(path) as file:
        return _guarded(path, file.read)


def read_documents(path: Path, field: str = "") -> Iterator[Document]:
    """The documents of a file of records, one by one, in their order.

    ``field``: where the text of a record stands; "": under "text", else under "messages". Raises
    InputError, saying which record and what fields it has, where there is no text, and where all
    are empty.
    """
    kind, count, empty = kind_of(path), 0, True
    records = _parquet(path, field or _FIELD) if kind == ".parquet" else _READERS[kind](path)
    for place, record in records:
        count += 1
        document = _document(record, field, f"{place} of {short(path)}")
        if not _is_blank(document):
            empty = False
            yield document
    if empty:
        raise InputError(
            f"{short(path)} is empty: there is no text in its {count:,} records; give a file with "
            "text in it."
        )


def _document(record: Any, field: str, place: str) -> Document:
    if not isinstance(record, dict):
        raise InputError(f"{place} is not an object with a field for its text.")
    name = field or (_MESSAGES if _FIELD not in record and _MESSAGES in record else _FIELD)
    if name not in record:
        have = short(", ".join(map(str, record)) or "none")
        raise InputError(
            f'{place} has no field "{short(name, 40)}"; it has {have}: name the one that holds the '
            "text with --text-field."
        )
    value = record[name]
    if isinstance(value, str) and _is_text(value):
        return value
    if isinstance(value, list) and value and all(map(_is_message, value)):
        return value
    said = _SAID.get(type(value), f"a {type(value).__name__}")
    raise InputError(f'{place} has no text under "{short(name, 40)}", but {said}.')


_SAID = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "half a character",
    list: "a list that is no conversation",
    dict: "an object",
}


def _is_text(value: str) -> bool:
    try:
        return bool(value.encode()) or not value
    except UnicodeEncodeError:  # half of a pair
        return False


def _is_message(value: Any) -> bool:
    said = isinstance(value, dict) and [value.get(name) for name in ("role", "content")]
    return bool(said) and all(isinstance(each, str) and _is_text(each) for each in said)


def _is_blank(document: Document) -> bool:
    texts = [document] if isinstance(document, str) else [each["content"] for each in document]
    return not any(text.strip() for text in texts)


Records = Iterator[tuple[str, Any]]
"""Where each record stands ("Line 3"), and what it is."""


def _lines(path: Path) -> Records:
    with _opened(path) as file:
        for number, line in enumerate(_each(path, file), start=1):
            if line.strip():
                yield f"Line {number:,}", parse_json(line, f"Line {number:,} of {short(path)}")


def _array(path: Path) -> Records:
    """The records of a JSON file: a list of them, one alone, or one a line."""
    text = read_plain(path)
    if len(text) > MOST_TEXT:
        raise InputError(
            f"{short(path)} is too large for a JSON list, which is read at once; give JSON lines."
        )
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg != "Extra data":
            parse_json(text, short(path))  # raises what it says
        yield from _lines(path)
        return
    except (ValueError, RecursionError):
        data = parse_json(text, short(path))
    records = data if isinstance(data, list) else [data]
    yield from ((f"Record {number:,}", each) for number, each in enumerate(records, start=1))


def _table(path: Path) -> Records:
    """The rows of a CSV or TSV file, whose first row names the fields."""
    csv.field_size_limit(MOST)
    delimiter = "\t" if kind_of(path) == ".tsv" else ","
    with _opened(path, newline="") as file:
        rows = csv.reader(_each(path, file), delimiter=delimiter, strict=True)
        names = _guarded(path, lambda: next(rows, []))
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise InputError(
                f'{short(path)} has two fields called "{short(twice, 40)}"; rename one.'
            )
        while (row := _guarded(path, lambda: next(rows, None))) is not None:
            place = f"Line {rows.line_num:,}"
            if row and len(row) != len(names):
                raise InputError(
                    f"{place} of {short(path)} has {len(row)} fields, and the first has "
                    f"{len(names)}."
                )
            if row:
                yield place, dict(zip(names, row, strict=True))


def _parquet(path: Path, name: str) -> Records:
    """The rows of a Parquet file: of a column ``name`` that alone, else all of them."""
    from pyarrow import ArrowException, parquet

    def guarded(call: Callable[[], Any]) -> Any:
        try:
            return _guarded(path, call)
        except ArrowException as error:
            raise InputError(f"{short(path)} cannot be read: {reason_of(error)}.") from None

    file, number = guarded(lambda: parquet.ParquetFile(check_size(path))), 0
    columns = [name] if name in file.schema_arrow.names else None
    batches = file.iter_batches(batch_size=256, columns=columns)
    while (batch := guarded(lambda: next(batches, None))) is not None:
        for record in guarded(batch.to_pylist):
            number += 1
            yield f"Record {number:,}", record


_READERS: dict[str, Callable[[Path], Records]] = {
    ".jsonl": _lines,
    ".ndjson": _lines,
    ".json": _array,
    ".csv": _table,
    ".tsv": _table,
}


class _Bounded(io.RawIOBase):
    """What ``file`` gives; raises InputError where that is more than `MOST` bytes."""

    def __init__(self, path: Path, file: Any):
        self.path, self.file, self.left = path, file, MOST

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        count = self.file.readinto(buffer)
        self.left -= count
        if self.left < 0:
            raise _too_large(self.path)
        return count

    def close(self) -> None:
        self.file.close()
        super().close()


def _opened(path: Path, newline: str | None = None) -> io.TextIOWrapper:
    """A file of texts, unpacked, as UTF-8 without a byte order mark."""
    path = check_size(path)
    opener = gzip.GzipFile if path.name.lower().endswith(".gz") else io.FileIO
    file = _guarded(path, lambda: opener(path))
    bounded = io.BufferedReader(_Bounded(path, file), 2**20)
    if b"\0" in _guarded(path, bounded.peek):
        raise InputError(f"{short(path)} {_BINARY}.")
    return io.TextIOWrapper(bounded, encoding="utf-8-sig", newline=newline)


def _each(path: Path, file: io.TextIOWrapper) -> Iterator[str]:
    blank = 0
    while line := _guarded(path, file.readline):
        if "\0" in line:
            raise InputError(f"{short(path)} {_BINARY}.")
        blank = 0 if line.strip() else blank + 1
        if blank > _MOST_BLANK:
            raise InputError(
                f"{short(path)} has more than {_MOST_BLANK:,} empty lines on end; give a file with "
                "text in it."
            )
        yield line


def _guarded(path: Path, call: Callable[[], Any]) -> Any:
    """``call()``, or InputError that says why ``path`` cannot be read."""
    try:
        found = call()
    except InputError:
        raise
    except UnicodeDecodeError:
        raise InputError(f"{short(path)} is not UTF-8 text; give one that is.") from None
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise InputError(f"{short(path)} cannot be read: {reason_of(error)}.") from None
    if isinstance(found, str) and "\0" in found:
        raise InputError(f"{short(path)} {_BINARY}.")
    return found


def _too_large(path: Path) -> InputError:
    return InputError(
        f"{short(path)} has more than {MOST / 2**30:g} GiB of text, the most that is read; give a "
        "part of it."
    )
