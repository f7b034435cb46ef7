"""A command that cannot fit is refused before it loads a model."""

from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..evaluation.estimating import Job, check, estimate
from ..models.memory import read_size
from ..pipeline.pipeline import Pipeline
from ..progress import Progress
from ..specs import PlanSpec, ScoreSpec

_ANYHOW = "To go on all the same, give --memory at least that much."


def fitting(
    progress: Progress, task: str, score: ScoreSpec, plan: PlanSpec | None, **more: Any
) -> Pipeline:
    """A `Pipeline` for this `Job`. It raises InputError, with what would fit, once something has to
    be loaded and the job takes more memory than is free and than --memory says.

    A plan of a file is counted as one of the sparsity that is said.
    """

    def refuse() -> None:
        try:
            job = Job(task, score, plan and replace(plan, source=""), **more)
            found = estimate(job)
        except InputError:
            return  # of what else is wrong the command says more
        said = read_size(score.model.memory)
        if said is not None and found.peak.bytes <= said:
            return
        try:
            check(job, found)
        except InputError as error:
            raise InputError(f"{error} {_ANYHOW}") from None

    return Pipeline(progress=progress, before_loading=refuse)
