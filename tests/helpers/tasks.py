"""Hand-made rows of the seven tasks, in the layout of the data folder."""

import json
from pathlib import Path

CHOICES = {"text": ["red sand", "a wet stone", "ice"], "label": ["A", "B", "C"]}
SUMS = {"text": ["four", "five", "six", "nine"], "label": ["1", "2", "3", "4"]}


def _choice(question: str, text: str, choices: dict, key: str) -> dict:
    return {"id": "x", question: text, "choices": choices, "answerKey": key}


def _asked(question: str) -> list[dict]:
    return [
        _choice(question, "Which of them melts?", CHOICES, "C"),
        _choice(question, "Two and two are", SUMS, "1"),
        _choice(question, "What lies in a river?", CHOICES, "B"),
        _choice(question, "Three and two are", SUMS, "2"),
        _choice(question, "What is a desert made of?", CHOICES, "A"),
        _choice(question, "Three times three is", SUMS, "4"),
    ]


def _gap(sentence: str, first: str, second: str, answer: str) -> dict:
    return {"sentence": sentence, "option1": first, "option2": second, "answer": answer}


def _scene(label: int, ctx_b: str) -> dict:
    endings = ["falls over.", "rides away fast.", "sings.", "[title] eats a   pear."]
    scene = {"activity_label": "Cycling", "ctx_a": "A man is on a bike.", "ctx_b": ctx_b}
    return {"ind": 1, **scene, "endings": endings, "label": label}


ROWS = {
    "boolq": [
        {"passage": f"The {x} is {y}.", "question": f"is the {x} {z}", "answer": y == z}
        for x, y, z in (("sky", "blue", "red"), ("sea", "wet", "wet"), ("sun", "hot", "hot"))
    ],
    "piqa": [
        {
            "goal": "open a jar",
            "sol1": "turn the lid",
            "sol2": "eat the lid, then wait",
            "label": 0,
        },
        {"goal": "dry a cup", "sol1": "put it in water", "sol2": "use a cloth", "label": 1},
        {"goal": "cool tea", "sol1": "add ice", "sol2": "add fire and stir it well", "label": 0},
        {"goal": "cut bread", "sol1": "with a spoon or so", "sol2": "with a knife", "label": 1},
    ],
    "hellaswag": [_scene(1, "he"), _scene(0, ""), _scene(3, "then he"), _scene(2, "he")],
    "winogrande": [
        _gap("The cup fell off the table because _ was round.", "the cup", "the table", "1"),
        _gap("Ann thanked Bea since _ had helped.", "Ann", "Bea", "2"),
        _gap("Ann helped Bea so _ was tired.", "Ann", "Bea", "1"),
    ],
    "arc_easy": _asked("question"),
    "arc_challenge": _asked("question")[::-1],
    "openbookqa": _asked("question_stem"),
}


def write_rows(folder: Path, rows: dict[str, list[dict]] | None = None) -> Path:
    """``folder`` as a data folder with these rows, all of the above if not given."""
    (folder / "tasks").mkdir(parents=True, exist_ok=True)
    for task, of_task in (ROWS if rows is None else rows).items():
        text = "\n".join(json.dumps(row) for row in of_task)
        (folder / "tasks" / f"{task}.jsonl").write_text(text + "\n")
    return folder
