"""What tests of reproductions share: small texts under the published names, a tiny model, and
tasks that take no time."""

import json
from collections.abc import Iterator
from pathlib import Path

from bipcore.evaluation.zero_shot import TaskResult
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import SEVEN, ModelSpec
from bipcore.studies.reproduction.scale import Changes, configure, fitted
from bipcore.studies.reproduction.spec import Reproduction

POSITIONS = 128
"""What the tiny models read at once."""


def texts_folder(folder: Path) -> Path:
    """``folder`` with short texts under the names of WikiText-2, PTB and C4, and four rows of each
    task."""
    lines = [f" line {i} says that {i * 7919 % 1000} is not {i * 31 % 977} \n" for i in range(90)]
    for name in ("wikitext2", "ptb", "c4"):
        (folder / name).mkdir(parents=True)
    (folder / "wikitext2/test.txt").write_text("".join(lines))
    (folder / "ptb/test.txt").write_text("".join(reversed(lines)))
    documents = [json.dumps({"text": "".join(lines[i : i + 9])}) for i in range(0, 90, 3)]
    (folder / "c4/train.jsonl").write_text("\n".join(documents))
    (folder / "tasks").mkdir()
    for task in SEVEN:
        rows = [json.dumps(_task_row(task, number)) for number in range(4)]
        (folder / f"tasks/{task}.jsonl").write_text("\n".join(rows))
    return folder


def _task_row(task: str, number: int) -> dict:
    """A row with the fields of all the seven tasks' data sets that do not contradict each other."""
    question, texts = f"What is {number} + {number}?", [f"It is {number + i}." for i in range(4)]
    row = {
        "question": question,
        "passage": f"{question} {texts[0]}",
        "answer": bool(number % 2),
        "goal": question,
        "sol1": texts[0],
        "sol2": texts[1],
        "label": number % 2,
        "activity_label": "Adding",
        "ctx_a": question,
        "ctx_b": "then",
        "endings": texts,
        "sentence": f"The sum of {number} and {number} is _ of course.",
        "option1": str(number),
        "option2": str(2 * number),
        "question_stem": question,
        "choices": {"text": texts, "label": list("ABCD")},
        "answerKey": "ABCD"[number],
    }
    return row | ({"answer": "1"} if task == "winogrande" else {})


def tiny_spec(name: str, model: str | Path, **changes) -> Reproduction:
    """The reproduction ``name`` of a tiny model, limited to 3 where nothing else is said."""
    asked = Changes(**({"limit": 3, "tasks": False} | changes))
    spec = configure(name, model=ModelSpec(str(model), device="cpu"), changes=asked)
    return fitted(spec, POSITIONS)


def quick_tasks(pipeline: Pipeline, spec, tasks, plan=None, recovery=None) -> Iterator[TaskResult]:
    """Stands in for `Pipeline.zero_shot`: BoolQ and WinoGrande have acc alone."""
    for index, task in enumerate(tasks.tasks):
        metrics = {"acc": 0.5 + 0.01 * index}
        if task not in ("boolq", "winogrande"):
            metrics["acc_norm"] = 0.6 + 0.01 * index
        yield TaskResult(task, metrics, samples=tasks.limit or 1000, total=1000)
