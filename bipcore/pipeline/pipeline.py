"""`Pipeline`: all that the command line and the pages can ask for, and the export.

Expensive results go through the run store; models are loaded when something has to be computed,
and kept. A `Pipeline` is used by one thread at a time.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from torch import nn

from ..evaluation.metrics import chosen_metrics
from ..evaluation.zero_shot import TaskResult, shares
from ..export.card import figure_rows
from ..export.export import Export, check_removes, check_tokenizer, same_export, save_pruned
from ..export.formats import AUTO, Format, choose_format, find_kind
from ..export.number_types import Checkpoint, read_checkpoint
from ..export.places import check_target
from ..models.adapters import Adapter
from ..models.families import family_of
from ..models.loading import empty_model, find_model, load_config
from ..models.streaming import check_whole
from ..models.tokenizer import load_tokenizer
from ..progress import Progress
from ..pruning.plan import BlockPlan, PruningPlan
from ..specs import (
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
    ZeroShotSpec,
)
from ..store.kinds import digest
from ..store.runs import RunStore
from .closeups import CloseUps
from .comparing import Comparisons
from .kept import Kept
from .measuring import Measurements
from .plans import Plans
from .provenance import base_name, describe, score_identity
from .recoveries import Recoveries, State, states_of
from .workbench import Workbench

__all__ = ["Pipeline", "base_name", "describe", "score_identity"]


def _verb(of: str, method: Callable) -> property:
    """A verb of `Pipeline`: the ``method`` of what it holds as ``of``."""
    return property(attrgetter(f"{of}.{method.__name__}"), doc=method.__doc__)


class Pipeline:
    """Computes results of specs, or reads them from the run store.

    The verbs on top of a `Workbench`: those about scores and plans are `Plans`', those about
    fine-tuning `Recoveries`', what is measured is `Measurements`', what is compared
    `Comparisons`', and what is looked at from near by `CloseUps`'. ``progress`` is told how far the
    work is, and never goes back.
    """

    def __init__(
        self,
        store: RunStore | None = None,
        progress: Progress | None = None,
        kept: Kept | None = None,
        before_loading: Callable[[], None] | None = None,
    ):
        self.bench = Workbench(store, progress, kept, before_loading)
        self.plans = Plans(self.bench)
        self.states = Recoveries(self.plans)
        self.measurements = Measurements(self.states)
        self.comparisons = Comparisons(self.states)
        self.close_ups = CloseUps(self.bench)
        self.store, self.progress = self.bench.store, self.bench.progress

    model = _verb("bench", Workbench.model)
    calibration = _verb("bench", Workbench.calibration)
    statistics = _verb("bench", Workbench.statistics)
    second_moments = _verb("bench", Workbench.second_moments)
    scores = _verb("plans", Plans.scores)
    has_scores = _verb("plans", Plans.has_scores)
    plan = _verb("plans", Plans.plan)
    keep_plan = _verb("plans", Plans.keep_plan)
    stored_plan = _verb("plans", Plans.stored_plan)
    pruned = _verb("plans", Plans.pruned)
    variant = _verb("states", Recoveries.variant)
    variant_identity = _verb("states", Recoveries.variant_identity)
    check_recovery = _verb("states", Recoveries.check_recovery)
    recover = _verb("states", Recoveries.recover)
    recovered = _verb("states", Recoveries.recovered)
    adapter = _verb("states", Recoveries.adapter)
    recoveries = _verb("states", Recoveries.recoveries)
    stored_recovery = _verb("states", Recoveries.stored_recovery)

    evaluate = _verb("measurements", Measurements.evaluate)
    differences = _verb("comparisons", Comparisons.differences)
    depth = _verb("comparisons", Comparisons.depth)
    head_close_up = _verb("close_ups", CloseUps.head_close_up)
    channel_close_up = _verb("close_ups", CloseUps.channel_close_up)
    standings = _verb("close_ups", CloseUps.standings)
    fate = _verb("close_ups", CloseUps.fate)
    reconstruction = _verb("measurements", Measurements.reconstruction)
    check_zero_shot = _verb("measurements", Measurements.check_zero_shot)
    zero_shot = _verb("measurements", Measurements.zero_shot)
    profile = _verb("measurements", Measurements.profile)
    profile_shapes = _verb("measurements", Measurements.profile_shapes)
    generate = _verb("measurements", Measurements.generate)

    def check_export(
        self,
        score: ScoreSpec,
        plan: PlanSpec,
        recovery: RecoverySpec | None = None,
        *,
        format: str = AUTO,
        save_dtype: str = "auto",
        quantize: str = "auto",
    ) -> None:
        """Raise InputError for an export of these specs that is sure to be refused: before anything
        is scored."""
        find_kind(format, quantize, save_dtype)
        likely = self.plans.outline(score, plan)
        if likely is not None:
            chosen = self._check_plan(score.model, likely, recovery, format, quantize)
        else:  # what holds of any plan
            whole = _everything(load_config(score.model.name, store=self.store))
            chosen = self._check_format(score.model, whole, format, AUTO)
        if chosen.in_memory and not self.has_scores(score, plan):
            check_whole(self.model(score.model)[0], f"The format {chosen.name}")

    def _check_plan(
        self,
        spec: ModelSpec,
        plan: PruningPlan,
        recovery: RecoverySpec | None,
        format: str,
        quantize: str,
    ) -> Format:
        check_removes(plan, recovered=recovery is not None)
        return self._check_format(spec, plan, format, quantize)

    def _check_format(self, spec: ModelSpec, plan: PruningPlan, name: str, kind: str) -> Format:
        """The format of that name, if it can hold the plan and the tokenizer; raises InputError."""
        config = load_config(spec.name, store=self.store)
        chosen, _ = choose_format(plan, config, name=name, kind=kind)
        if chosen.tokenizer_problem is not None:
            found = find_model(spec.name, store=self.store)
            check_tokenizer(chosen, load_tokenizer(found.name, found.folder, config), config)
        return chosen

    def export(
        self,
        spec: ModelSpec,
        plan: PruningPlan,
        folder: str | Path,
        *,
        evaluation: EvaluationSpec | None = None,
        recovery: RecoverySpec | None = None,
        format: str = AUTO,
        save_dtype: str = "auto",
        quantize: str = "auto",
    ) -> Export:
        """Export the pruned model, or the recovered one with its adapter; what is already there,
        whole and the same, is left as it is.

        With ``evaluation`` the card says its metrics before and after. ``format`` is one of
        `export.formats.FORMATS`, or "auto"; ``save_dtype`` the type that weights are written in,
        "auto" for the checkpoint's own, and ``quantize`` what they are quantised to in its place
        (see `save_pruned`). Raises InputError, before anything is computed, where the format cannot
        hold the plan, or it leaves the dense model.
        """
        check_target(folder, format)
        find_kind(format, quantize, save_dtype)
        if evaluation:
            chosen_metrics(evaluation.metrics)  # refuses an unknown one before anything is loaded
        self.bench.ensure_content(spec)
        how = {"format": format, "save_dtype": save_dtype, "quantize": quantize}
        source = _made_from(spec, plan, evaluation, recovery, how)
        self._check_plan(spec, plan, recovery, format, quantize)
        if done := same_export(folder, source):
            return done
        tokenizer = self.model(spec)[1]
        figures = self._figures(spec, evaluation, plan, recovery) if evaluation else None
        with self.progress.within(0.5, 0.8):
            model = self.variant(spec, plan, recovery)
        with self.progress.within(0.8, 1.0) as progress:
            return save_pruned(
                model,
                tokenizer,
                folder,
                plan=plan,
                figures=figures,
                source=source,
                checkpoint=self._checkpoint(model),
                **self._origin(spec, plan, recovery),
                **how,
                progress=progress,
            )

    def _origin(
        self, spec: ModelSpec, plan: PruningPlan, recovery: RecoverySpec | None
    ) -> dict[str, Any]:
        """What an export says of the model that it is made of, and says and keeps of a recovery."""
        adapter = self.adapter(spec, plan, recovery) if recovery else None
        trained = {"recovery": recovery, "adapter": adapter}
        return trained | {"base_model": base_name(spec.name), "licence": self.bench.found.licence}

    def _checkpoint(self, model: nn.Module) -> Checkpoint:
        """How the dense model of ``model``, which is in memory, lies on the disk."""
        found = self.bench.found
        return read_checkpoint(found.name, found.folder, family_of(model.config).blocks)

    def _figures(self, spec: ModelSpec, evaluation: EvaluationSpec, *made: Any) -> dict:
        """The metrics of a pruned or recovered model and those before it, as rows of the card."""
        found = []
        for index, state in enumerate(states_of(*made).values()):
            with self.progress.within(0.2 + 0.2 * index, 0.4 + 0.2 * index):
                found.append(self.evaluate(spec, evaluation, *state))
        return figure_rows(evaluation, found)


def _everything(config) -> PruningPlan:
    """The plan that keeps all of a model of ``config``."""
    shape = Adapter(empty_model(config)).shape
    blocks = (BlockPlan(tuple(range(b.heads)), tuple(range(b.channels))) for b in shape.blocks)
    return PruningPlan(shape, tuple(blocks))


def _made_from(
    spec: ModelSpec,
    plan: PruningPlan,
    evaluation: EvaluationSpec | None,
    recovery: RecoverySpec | None,
    how: Mapping[str, str],
) -> str:
    """What identifies all that an export is made from, and how it is written."""
    kind = how["save_dtype"] if how["quantize"] == AUTO else how["quantize"]
    written = {"as": how["format"], "type": kind}
    measured = evaluation.asked() if evaluation else None
    tuned = recovery.identity() if recovery else None
    return digest([spec.identity(), plan.to_json(), measured, tuned, written])


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
    progress, ahead = pipeline.progress, pipeline.measurements.tasks_ahead(model, tasks, states)
    for task, bounds in zip(tasks.tasks, shares(tasks), strict=True):
        for index, (name, state) in enumerate(states.items()):
            with (
                progress.within(*bounds),
                progress.share(index, len(states), f"{name}, {{}}".format),
            ):
                ahead((task, name))
                (result,) = pipeline.zero_shot(model, replace(tasks, tasks=(task,)), *state)
            yield name, result
