"""From specs to results: the one orchestrator behind the command line and the pages.

Expensive results go through the run store; models are loaded when something has to be computed,
and kept. A `Pipeline` is used by one thread at a time.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..evaluation.metrics import (
    chosen_metrics,
)
from ..evaluation.zero_shot import (
    TaskResult,
    shares,
)
from ..export.card import figure_rows
from ..export.export import Export, same_export, save_pruned
from ..export.formats import AUTO, choose_format
from ..models.loading import load_config
from ..progress import Progress
from ..pruning.plan import PruningPlan
from ..specs import EvaluationSpec, ModelSpec, RecoverySpec, ZeroShotSpec
from ..store.files import check_destination
from ..store.kinds import digest
from ..store.runs import RunStore
from .measuring import Measurements
from .plans import Plans
from .provenance import base_name, describe, score_identity
from .recoveries import Recoveries, State, states_of
from .workbench import Workbench

__all__ = ["Pipeline", "base_name", "describe", "score_identity"]


def _verb(method: Callable, *, of: str) -> Callable:
    """A method of `Pipeline` that is the ``method`` of what it holds as ``of``."""

    @functools.wraps(method)
    def verb(pipeline: "Pipeline", *args: Any, **named: Any) -> Any:
        return method(getattr(pipeline, of), *args, **named)

    return verb


class Pipeline:
    """Computes results of specs, or reads them from the run store.

    The verbs on top of a `Workbench`: those about scores and plans are `Plans`', those about
    fine-tuning `Recoveries`', and what is measured is `Measurements`'. ``progress`` is told how far
    the work is, and never goes back.
    """

    def __init__(self, store: RunStore | None = None, progress: Progress | None = None):
        self.bench = Workbench(store, progress)
        self.plans = Plans(self.bench)
        self.states = Recoveries(self.plans)
        self.measurements = Measurements(self.states)
        self.store, self.progress = self.bench.store, self.bench.progress

    model = _verb(Workbench.model, of="bench")
    calibration = _verb(Workbench.calibration, of="bench")
    statistics = _verb(Workbench.statistics, of="bench")
    second_moments = _verb(Workbench.second_moments, of="bench")
    scores = _verb(Plans.scores, of="plans")
    has_scores = _verb(Plans.has_scores, of="plans")
    plan = _verb(Plans.plan, of="plans")
    keep_plan = _verb(Plans.keep_plan, of="plans")
    stored_plan = _verb(Plans.stored_plan, of="plans")
    pruned = _verb(Plans.pruned, of="plans")
    variant = _verb(Recoveries.variant, of="states")
    variant_identity = _verb(Recoveries.variant_identity, of="states")
    check_recovery = _verb(Recoveries.check_recovery, of="states")
    recover = _verb(Recoveries.recover, of="states")
    recovered = _verb(Recoveries.recovered, of="states")
    adapter = _verb(Recoveries.adapter, of="states")
    recoveries = _verb(Recoveries.recoveries, of="states")
    stored_recovery = _verb(Recoveries.stored_recovery, of="states")

    evaluate = _verb(Measurements.evaluate, of="measurements")
    reconstruction = _verb(Measurements.reconstruction, of="measurements")
    check_zero_shot = _verb(Measurements.check_zero_shot, of="measurements")
    zero_shot = _verb(Measurements.zero_shot, of="measurements")
    profile = _verb(Measurements.profile, of="measurements")
    profile_shapes = _verb(Measurements.profile_shapes, of="measurements")
    generate = _verb(Measurements.generate, of="measurements")

    def export(
        self,
        spec: ModelSpec,
        plan: PruningPlan,
        folder: str | Path,
        *,
        evaluation: EvaluationSpec | None = None,
        recovery: RecoverySpec | None = None,
        format: str = AUTO,
    ) -> Export:
        """Export the pruned model, or the recovered one with its adapter; what is already there,
        whole and the same, is left as it is.

        With ``evaluation`` the card says its metrics before and after. ``format`` is one of
        `export.formats.FORMATS`, or "auto". Raises InputError, before anything is computed, where
        that cannot hold the plan.
        """
        check_destination(folder)
        if evaluation:
            chosen_metrics(evaluation.metrics)  # refuses an unknown one before anything is loaded
        self.bench.ensure_content(spec)
        measured = evaluation.asked() if evaluation else None
        made_from = [spec.identity(), plan.to_json(), measured]
        made_from += [recovery.identity()] if recovery else []
        source = digest(made_from + ([format] if format != AUTO else []))
        if format != AUTO:
            choose_format(plan, load_config(spec.name, store=self.store), name=format)
        if done := same_export(folder, source):
            return done
        _, tokenizer = self.model(spec)
        figures = self._figures(spec, evaluation, plan, recovery) if evaluation else None
        with self.progress.within(0.5, 0.8):
            model = self.variant(spec, plan, recovery)
        with self.progress.within(0.8, 1.0) as progress:
            return save_pruned(
                model,
                tokenizer,
                folder,
                plan=plan,
                base_model=base_name(spec.name),
                licence=self.bench.found.licence,
                figures=figures,
                source=source,
                adapter=self.adapter(spec, plan, recovery) if recovery else None,
                format=format,
                progress=progress,
            )

    def _figures(self, spec: ModelSpec, evaluation: EvaluationSpec, *made: Any) -> dict:
        """The metrics of a pruned or recovered model and those before it, as rows of the card."""
        found = []
        for index, state in enumerate(states_of(*made).values()):
            with self.progress.within(0.2 + 0.2 * index, 0.4 + 0.2 * index):
                found.append(self.evaluate(spec, evaluation, *state))
        return figure_rows(evaluation, found)


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
