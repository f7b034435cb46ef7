"""The seven common-sense tasks: where lm_eval defines them, and their rows on this machine.

Rows are looked for in ``BIPCORE_DATA/tasks/<task>.jsonl``, one JSON object a line. They are checked
before anything is measured, and handed on in the shape that the hub's data sets have.
"""

import functools
import importlib.util
import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, reason_of
from ..hub import hub_call
from ..store.content import sha256
from ..store.inputs import MOST_TEXT

HUB = "hub"


@dataclass(frozen=True)
class KnownTask:
    """One of the seven.

    ``yaml``: its definition under lm_eval/tasks. ``split``: the part it is measured on, which has
    ``rows`` rows of mostly ``answers`` answers to score. ``fields``: what a local row must have;
    ``row`` makes what lm_eval reads of one.
    """

    yaml: str
    split: str
    rows: int
    answers: int
    fields: tuple[str, ...]
    row: Callable[[dict], dict]


class _BadField(ValueError):
    """A field of a row that cannot be used, and what it has to be."""

    def __init__(self, field: str, wanted: str):
        super().__init__(field)
        self.field, self.wanted = field, wanted


def _text(row: dict, field: str, *, blank: bool = False) -> str:
    value = row[field]
    if not _is_text(value) or not (blank or value.strip()):
        raise _BadField(field, "text")
    return value


def _is_text(value: Any) -> bool:
    try:
        return isinstance(value, str) and bool(value.encode() or True)
    except UnicodeEncodeError:
        return False


def _texts(values: Any, field: str) -> list[str]:
    is_list = isinstance(values, list) and len(values) > 1
    if not is_list or not all(_is_text(value) and value.strip() for value in values):
        raise _BadField(field, "a list of at least two texts")
    return values


def _index(row: dict, field: str, count: int) -> int:
    value = row[field]
    text = str(int(value) if isinstance(value, bool) else value)
    if text not in map(str, range(count)):
        raise _BadField(field, f"a whole number from 0 to {count - 1}")
    return int(text)


def _boolq(row: dict) -> dict:
    label = _index(row, "answer", 2)
    return {"passage": _text(row, "passage"), "question": _text(row, "question"), "label": label}


def _piqa(row: dict) -> dict:
    texts = {field: _text(row, field) for field in ("goal", "sol1", "sol2")}
    return texts | {"label": _index(row, "label", 2)}


def _hellaswag(row: dict) -> dict:
    endings = _texts(row["endings"], "endings")
    return {
        "activity_label": _text(row, "activity_label"),
        "ctx_a": _text(row, "ctx_a"),
        "ctx_b": _text(row, "ctx_b", blank=True),
        "endings": endings,
        "label": str(_index(row, "label", len(endings))),
    }


def _winogrande(row: dict) -> dict:
    sentence = _text(row, "sentence")
    if "_" not in sentence:
        raise _BadField("sentence", 'text with a gap "_"')
    if row["answer"] not in ("1", "2"):
        raise _BadField("answer", '"1" or "2"')
    options = {field: _text(row, field) for field in ("option1", "option2")}
    return {"sentence": sentence, **options, "answer": row["answer"]}


def _choices(question: str) -> Callable[[dict], dict]:
    """Rows of ARC and OpenBookQA, whose question is the field ``question``."""

    def make(row: dict) -> dict:
        choices = row["choices"]
        if not isinstance(choices, dict) or {"text", "label"} - choices.keys():
            raise _BadField("choices", 'an object with the lists "text" and "label"')
        texts = _texts(choices["text"], "choices.text")
        labels = _texts(choices["label"], "choices.label")
        if len(labels) != len(texts):
            raise _BadField("choices.label", f"a list of {len(texts)} texts, one for each answer")
        key = _text(row, "answerKey").strip()
        if key not in labels:
            raise _BadField("answerKey", f"one of the labels {', '.join(labels)}")
        both = {"text": texts, "label": labels}
        return {question: _text(row, question), "choices": both, "answerKey": key}

    return make


_ARC = ("question", "choices", "answerKey")
_OPENBOOK = ("question_stem", "choices", "answerKey")
_HELLASWAG = ("activity_label", "ctx_a", "ctx_b", "endings", "label")
_PIQA = ("goal", "sol1", "sol2", "label")
_GAP = ("sentence", "option1", "option2", "answer")

KNOWN = {
    "boolq": KnownTask(
        "super_glue/boolq/default.yaml",
        "validation",
        3270,
        2,
        ("passage", "question", "answer"),
        _boolq,
    ),
    "piqa": KnownTask("piqa/piqa.yaml", "validation", 1838, 2, _PIQA, _piqa),
    "hellaswag": KnownTask(
        "hellaswag/hellaswag.yaml", "validation", 10042, 4, _HELLASWAG, _hellaswag
    ),
    "winogrande": KnownTask("winogrande/default.yaml", "validation", 1267, 2, _GAP, _winogrande),
    "arc_easy": KnownTask("arc/arc_easy.yaml", "test", 2376, 4, _ARC, _choices("question")),
    "arc_challenge": KnownTask(
        "arc/arc_challenge.yaml", "test", 1172, 4, _ARC, _choices("question")
    ),
    "openbookqa": KnownTask(
        "openbookqa/openbookqa.yaml", "test", 500, 4, _OPENBOOK, _choices("question_stem")
    ),
}
"""The seven by name, as `specs.SEVEN` lists them."""


def local_file(task: str) -> Path | None:
    """The file with the rows of one of the seven, where there is one."""
    root = os.environ.get("BIPCORE_DATA")
    if not root or task not in KNOWN:
        return None
    path = Path(root) / "tasks" / f"{task}.jsonl"
    return path if path.is_file() else None


def rows_at_hand(task: str) -> int | None:
    """How many rows a run can have: those of the local file, else those of the hub's data set;
    None for other tasks than the seven."""
    if task not in KNOWN:
        return None
    path = local_file(task)
    if path is None:
        return KNOWN[task].rows
    return sum(1 for line in _bytes(path).split(b"\n") if line.strip())


def data_identity(task: str) -> str:
    """What identifies the rows of a task: ``sha256:...`` of its local file, or `HUB`."""
    path = local_file(task)
    if path is None:
        return HUB
    try:
        return f"sha256:{sha256(path)}"
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}.") from None


def where_tried(task: str) -> str:
    """Where rows of ``task`` were looked for on this machine, for a sentence."""
    if task not in KNOWN:
        return "only the seven tasks have rows in BIPCORE_DATA"
    root = os.environ.get("BIPCORE_DATA")
    return f"BIPCORE_DATA ({root}) has no tasks/{task}.jsonl" if root else "BIPCORE_DATA is not set"


def read_rows(task: str) -> list[dict]:
    """The rows of the local file of ``task``, in the shape of the hub's data set.

    Raises InputError, with file, line and field, for a row that cannot be used.
    """
    path, known = local_file(task), KNOWN[task]
    if path is None:
        raise InputError(f"There are no rows of {task!r}: {where_tried(task)}.")
    try:
        text = _bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path} is not UTF-8 text; give a JSONL file of {task} rows.") from None
    lines = enumerate(text.split("\n"), start=1)
    rows = [_row(line, f"Line {number} of {path}", known) for number, line in lines if line.strip()]
    if not rows:
        raise InputError(f"{path} is empty; give a JSONL file of {task} rows.")
    return rows


def _row(line: str, place: str, known: KnownTask) -> dict:
    fields = ", ".join(known.fields)
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise InputError(f"{place} is not a JSON object with the fields {fields}.")
    for field in known.fields:
        if field not in row:
            raise InputError(f"{place} has no field {field!r}; a row has the fields {fields}.")
    try:
        return known.row(row)
    except _BadField as bad:
        raise InputError(f"{place}: the field {bad.field!r} has to be {bad.wanted}.") from None


def _bytes(path: Path) -> bytes:
    try:
        if path.stat().st_size > MOST_TEXT:
            raise InputError(
                f"{path} has more than {MOST_TEXT / 2**20:,.0f} MiB, the most that is read."
            )
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason_of(error)}.") from None


def tasks_folder() -> Path:
    """Where lm_eval keeps its definitions of tasks; does not import it."""
    return Path(importlib.util.find_spec("lm_eval").origin).parent / "tasks"


_NAMED = re.compile(
    rb"^[ \t]*(?:-[ \t]+)?[\"']?(?:task|group|tag)[\"']?[ \t]*:(.*(?:\n[ \t]*-[ \t].*)*)", re.M
)
_NAME = re.compile(rb"[^\s,\"'\[\]{}#]+")


def defined_names() -> frozenset[str]:
    """All that lm_eval's definitions call a task, a group or a tag, and a few words more.

    Read from the files in a second; lm_eval's own list takes it 15.
    """
    return _names_in(tasks_folder())


@functools.cache
def _names_in(folder: Path) -> frozenset[str]:
    found: set[bytes] = set()
    for file in folder.rglob("*"):
        if file.suffix in ("", ".yaml") and file.is_file():
            for said in _NAMED.findall(file.read_bytes()):
                found.update(_NAME.findall(said))
    return frozenset(name.decode(errors="replace") for name in found)


def check_data(task: str, num_fewshot: int = 0) -> None:
    """Raise InputError for local rows that cannot be used or are too few, and where there are
    none for a hub that cannot be reached."""
    if local_file(task) is None:
        from_hub(task, lambda: None)
    else:
        checked_rows(task, num_fewshot)


def checked_rows(task: str, num_fewshot: int = 0) -> list[dict]:
    """The local rows; with examples they are drawn from the other rows, so there have to be
    more."""
    rows = read_rows(task)
    if num_fewshot and len({json.dumps(row) for row in rows}) <= num_fewshot:
        raise InputError(
            f"{num_fewshot} examples for each row of {task!r} have to be other rows of "
            f"{local_file(task)}, which has {len(rows)}; ask for fewer examples or give more rows."
        )
    return rows


def from_hub(task: str, call):
    """``call()``, or InputError that says where the rows of ``task`` were looked for."""
    return hub_call(
        call,
        lambda reason: (
            f"The rows of the task {task!r} were not found: {where_tried(task)}, and the hub gave "
            f"nothing ({reason}); set BIPCORE_DATA to a folder that has tasks/{task}.jsonl, or "
            "check the network."
        ),
    )
