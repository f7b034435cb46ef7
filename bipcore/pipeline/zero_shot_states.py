"""Zero-shot tasks of the dense, the pruned and the recovered model, in turn."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..evaluation.zero_shot import TaskResult, shares
from ..pruning.plan import PruningPlan
from ..specs import ModelSpec, RecoverySpec, ZeroShotSpec
from .pipeline import Pipeline

State = tuple[PruningPlan | None, RecoverySpec | None]


def states_of(
    plan: PruningPlan | None = None, recovery: RecoverySpec | None = None
) -> dict[str, State]:
    """The states of a model by name: "dense", with ``plan`` "pruned", with ``recovery``
    "recovered"."""
    states: dict[str, State] = {"dense": (None, None)}
    if plan is not None:
        states["pruned"] = (plan, None)
    if plan is not None and recovery is not None:
        states["recovered"] = (plan, recovery)
    return states


def measure_states(
    pipeline: Pipeline, model: ModelSpec, tasks: ZeroShotSpec, states: Mapping[str, State]
) -> Iterator[tuple[str, TaskResult]]:
    """The name of a state and its result, task by task, each task in every state.

    Raises InputError at once, before a model is loaded, for what `check_zero_shot` refuses.
    """
    for state in states.values():
        pipeline.check_zero_shot(model, tasks, *state)
    return _measured(pipeline, model, tasks, states)


def _measured(
    pipeline: Pipeline, model: ModelSpec, tasks: ZeroShotSpec, states: Mapping[str, State]
) -> Iterator[tuple[str, TaskResult]]:
    progress = pipeline.progress
    for task, bounds in zip(tasks.tasks, shares(tasks), strict=True):
        for index, (name, state) in enumerate(states.items()):
            with (
                progress.within(*bounds),
                progress.share(index, len(states), f"{name}, {{}}".format),
            ):
                (result,) = pipeline.zero_shot(model, replace(tasks, tasks=(task,)), *state)
            yield name, result
