"""Zero-shot tasks of a model in whichever state, through the run store."""

from collections.abc import Iterator

from ..data.tasks import check_data
from ..evaluation.zero_shot import TaskResult, check_tasks, run_task, shares, task_identity
from ..pruning.plan import PruningPlan
from ..specs import ModelSpec, RecoverySpec, ZeroShotSpec
from .recoveries import Recovering

_KIND = "zero-shot"


class ZeroShotRuns(Recovering):
    """Measures zero-shot tasks, each stored by itself."""

    def check_zero_shot(
        self,
        spec: ModelSpec,
        tasks: ZeroShotSpec,
        plan: PruningPlan | None = None,
        recovery: RecoverySpec | None = None,
    ) -> None:
        """Raise InputError where `zero_shot` could not go through with it; loads nothing.

        Of the tasks that are stored already no rows are needed.
        """
        check_tasks(tasks)
        identities = {}
        if spec.identity()["content"] is not None:  # else nothing of it can be stored
            identities = self._task_identities(spec, tasks, plan, recovery)
        for task in tasks.tasks:
            one = identities.get(task)
            if one is None or self.store.find(_KIND, one) is None:
                check_data(task, tasks.num_fewshot)

    def _task_identities(
        self,
        spec: ModelSpec,
        tasks: ZeroShotSpec,
        plan: PruningPlan | None,
        recovery: RecoverySpec | None,
    ) -> dict[str, dict]:
        made = self.variant_identity(spec, plan, recovery)
        how = {"num_fewshot": tasks.num_fewshot, "limit": tasks.limit}
        return {task: made | {"zero_shot": task_identity(task, **how)} for task in tasks.tasks}

    def zero_shot(
        self,
        spec: ModelSpec,
        tasks: ZeroShotSpec,
        plan: PruningPlan | None = None,
        recovery: RecoverySpec | None = None,
    ) -> Iterator[TaskResult]:
        """The tasks' results of the dense model, with ``plan`` of the pruned one, and with
        ``recovery`` of that, recovered, one by one.

        Each is stored when it is done, so a run that was stopped goes on where it was. Raises
        InputError at once, before a model is loaded, for what `check_zero_shot` refuses.
        """
        self.check_zero_shot(spec, tasks, plan, recovery)
        return self._zero_shot(spec, tasks, plan, recovery)

    def _zero_shot(
        self,
        spec: ModelSpec,
        tasks: ZeroShotSpec,
        plan: PruningPlan | None,
        recovery: RecoverySpec | None,
    ) -> Iterator[TaskResult]:
        settings = {name: getattr(tasks, name) for name in ("num_fewshot", "limit", "batch_size")}

        def compute(task: str) -> dict:
            with self.progress.within(0.0, 0.1):
                model = self.variant(spec, plan, recovery)
            tokenizer = self.model(spec)[1]
            with self.progress.within(0.1, 1.0) as progress:
                return run_task(model, tokenizer, task, **settings, progress=progress).to_dict()

        identities = self._task_identities(spec, tasks, plan, recovery)
        for (task, one), (start, end) in zip(identities.items(), shares(tasks), strict=True):
            with self.progress.within(start, end):
                data = self.store.json(_KIND, one, lambda t=task: compute(t))
            yield TaskResult.from_dict(data)
