"""Zero-shot tasks: accuracies by lm_eval of the model in memory.

A task is measured by lm_eval's own definition, with its prompts, its order and its metrics. The
rows of the seven common-sense tasks come from `data.tasks` where they are on this machine; those
of the others, and of the seven where they are not, from the hub.

    result = run_task(model, tokenizer, "piqa", limit=100)
    result.metrics["acc_norm"], result.stderrs["acc_norm"], result.rows  # "100 of 1,838 rows"
"""

import difflib
import importlib.metadata
import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import accumulate, pairwise
from typing import Any

from torch import nn

from ..data.tasks import KNOWN, check_data, data_identity, defined_names, rows_at_hand
from ..errors import InputError, short
from ..progress import Progress, silent
from ..specs import SEVEN, ZeroShotSpec
from ..store.kinds import Kind

_ACCURACIES = ("acc_norm", "acc")
_OTHER_ROWS = 1000


@dataclass(frozen=True)
class TaskResult:
    """What a model scored in a task.

    ``metrics`` (accuracies from 0 to 1) and ``stderrs`` are by lm_eval's names: "acc",
    "acc_norm"; with any filter but the plain one "exact_match,strict-match". ``samples`` rows
    were measured, of the ``total`` that the task has. ``num_fewshot`` examples stood in the
    prompt; ``version`` is the task's in lm_eval; ``source`` identifies the rows (see
    `data.tasks.data_identity`).
    """

    task: str
    metrics: Mapping[str, float]
    stderrs: Mapping[str, float] = field(default_factory=dict)
    samples: int = 0
    total: int | None = None
    num_fewshot: int = 0
    version: str = ""
    source: str = ""

    @property
    def limited(self) -> bool:
        """Whether it is not the whole task, and so not to be called by the benchmark's name."""
        return self.total is not None and self.samples < self.total

    @property
    def score_name(self) -> str:
        """The metric that counts: acc_norm where there is one, else acc, else the first."""
        found = (name for name in (*_ACCURACIES, *self.metrics) if name in self.metrics)
        return next(found, "")

    @property
    def score(self) -> float:
        """The value of the metric that counts."""
        return self.metrics[self.score_name]

    @property
    def rows(self) -> str:
        """How many rows were measured of how many: "100 of 1,172 rows"."""
        of = f"{self.samples:,}" if self.total is None else f"{self.samples:,} of {self.total:,}"
        return f"{of} rows"

    def to_dict(self) -> dict:
        """The result as plain data."""
        return asdict(self) | {"metrics": dict(self.metrics), "stderrs": dict(self.stderrs)}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TaskResult":
        """The inverse of `to_dict`."""
        return cls(**data)


ZERO_SHOT = Kind(
    "zero-shot",
    "accuracies in zero-shot tasks",
    version=4,
    write=lambda result: ({}, result.to_dict()),
    read=lambda tensors, data: TaskResult.from_dict(data),
)


def average(results: Sequence[TaskResult]) -> float:
    """The mean score of ``results`` in per cent, every task counting the same.

    Of the seven it is what the paper's column "average" is.
    """
    if not results:
        raise InputError("There is no mean of no tasks; measure at least one.")
    return 100 * sum(result.score for result in results) / len(results)


def requests_of(task: str, limit: int | None = None) -> int:
    """About how many answers are scored in ``task``: the measure of how long it takes."""
    rows = rows_at_hand(task) or _OTHER_ROWS
    return max(1, min(rows, limit or rows)) * (KNOWN[task].answers if task in KNOWN else 4)


def shares(spec: ZeroShotSpec) -> list[tuple[float, float]]:
    """From where to where on one bar each task of ``spec`` goes, by its requests."""
    ends = list(accumulate((requests_of(task, spec.limit) for task in spec.tasks), initial=0))
    return [(start / ends[-1], end / ends[-1]) for start, end in pairwise(ends)]


def task_identity(task: str, *, num_fewshot: int = 0, limit: int | None = None) -> dict:
    """What a stored result of ``task`` depends on, beside the model."""
    return {
        "task": task,
        "num_fewshot": num_fewshot,
        "limit": limit,
        "data": data_identity(task),
        "lm_eval": importlib.metadata.version("lm_eval"),
    }


def check_names(spec: ZeroShotSpec) -> None:
    """Raise InputError for no task at all, or one named twice."""
    if not spec.tasks:
        raise InputError(f"There is no task to measure; name at least one of {', '.join(SEVEN)}.")
    for task in spec.tasks:
        if spec.tasks.count(task) > 1:
            raise InputError(f"The task {task!r} is named twice; name each once.")


def check_tasks(spec: ZeroShotSpec) -> None:
    """Raise InputError for names that are no tasks of lm_eval, or none, or one twice.

    lm_eval's own list of names is read for other names than the seven: it takes 15 seconds once.
    """
    check_names(spec)
    for task in spec.tasks:
        if task not in KNOWN:
            _check_other_name(task)


def _check_other_name(task: str) -> None:
    if task not in defined_names():
        raise _unknown(task, (*SEVEN, *defined_names()))
    from .harness import task_manager

    manager = task_manager()
    if task in manager.all_tags:
        members = ", ".join(sorted(manager.task_index[task].tags))
        raise InputError(f"{task!r} stands for several tasks; name them one by one: {members}.")
    if task not in (*manager.all_subtasks, *manager.all_groups):
        raise _unknown(task, (*SEVEN, *manager.all_subtasks, *manager.all_groups))


def _unknown(task: str, names: Sequence[str]) -> InputError:
    close = difflib.get_close_matches(task, names, n=3, cutoff=0.7)
    meant = f" Did you mean {' or '.join(close)}?" if close else ""
    return InputError(
        f"There is no task {short(task, 60)!r}; there are {', '.join(SEVEN)}, and the names of "
        f"lm_eval's own tasks where the hub can be reached.{meant}"
    )


def run_task(
    model: nn.Module,
    tokenizer,
    task: str,
    *,
    num_fewshot: int = 0,
    limit: int | None = None,
    batch_size: int = 8,
    progress: Progress | None = None,
) -> TaskResult:
    """Measure ``model``, where it is and as it is, in ``task``: one of the seven, or a task or
    group of lm_eval.

    ``limit``: the first so many rows. ``num_fewshot`` examples stand before each question; with
    local rows they are drawn, by lm_eval's own seed, from the other rows, since the training part
    is not there. ``batch_size`` requests run at once. ``progress`` is called at every forward
    pass. The model, its tokenizer and the global random generators are left as they were. Raises
    InputError.
    """
    spec = ZeroShotSpec((task,), num_fewshot, limit, batch_size)
    check_tasks(spec)
    check_data(task, num_fewshot)
    report, source = progress or silent, data_identity(task)
    report(0.0, f"{task}: loading lm_eval")
    from .harness import measure  # and with it lm_eval, which takes seconds

    found = measure(model, tokenizer, spec, report)
    report(1.0, f"{task}: done")
    known = KNOWN.get(task)
    total = found.total if known is None else max(found.total, known.rows)
    return TaskResult(
        task=task,
        metrics=found.metrics,
        stderrs=found.stderrs,
        samples=found.samples,
        total=total,
        num_fewshot=found.num_fewshot,
        version=found.version,
        source=source,
    )
