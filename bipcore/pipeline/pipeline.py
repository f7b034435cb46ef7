"""From specs to results: the one orchestrator behind the command line and the pages.

Expensive results go through the run store; models are loaded when something has to be computed,
and kept. A `Pipeline` is used by one thread at a time.
"""

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..criteria import find_criterion
from ..data.calibration import CalibrationSet
from ..data.tasks import check_data
from ..errors import InputError
from ..evaluation.metrics import (
    EVALUATIONS,
    Metric,
    chosen_metrics,
    cut_windows,
    figure,
    load_test_tokens,
)
from ..evaluation.profiling import Profile, profile_model, profile_shape
from ..evaluation.reconstruction import (
    RECONSTRUCTION,
    ReconstructionErrors,
    reconstruction_errors,
)
from ..evaluation.zero_shot import (
    ZERO_SHOT,
    TaskResult,
    check_tasks,
    run_task,
    shares,
    task_identity,
)
from ..export.card import figure_rows
from ..export.export import Export, same_export, save_pruned
from ..export.formats import AUTO, choose_format
from ..models.adapters import Adapter
from ..models.generation import Generated, Sampling, stream
from ..models.loading import empty_model, load_config
from ..progress import Progress
from ..pruning.allocation import allocated_shape
from ..pruning.plan import PruningPlan
from ..pruning.resolving import resolve
from ..specs import EvaluationSpec, ModelSpec, PlanSpec, RecoverySpec, ScoreSpec, ZeroShotSpec
from ..store.files import check_destination
from ..store.kinds import digest
from ..store.runs import RunStore
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
    fine-tuning `Recoveries`'. ``progress`` is told how far the work is, and never goes back.
    """

    def __init__(self, store: RunStore | None = None, progress: Progress | None = None):
        self.bench = Workbench(store, progress)
        self.plans = Plans(self.bench)
        self.fine_tuned = Recoveries(self.plans)
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
    variant = _verb(Recoveries.variant, of="fine_tuned")
    variant_identity = _verb(Recoveries.variant_identity, of="fine_tuned")
    check_recovery = _verb(Recoveries.check_recovery, of="fine_tuned")
    recover = _verb(Recoveries.recover, of="fine_tuned")
    recovered = _verb(Recoveries.recovered, of="fine_tuned")
    adapter = _verb(Recoveries.adapter, of="fine_tuned")
    recoveries = _verb(Recoveries.recoveries, of="fine_tuned")
    stored_recovery = _verb(Recoveries.stored_recovery, of="fine_tuned")

    def evaluate(
        self,
        spec: ModelSpec,
        evaluation: EvaluationSpec,
        plan: PruningPlan | None = None,
        recovery: RecoverySpec | None = None,
    ) -> dict:
        """Figures of the dense model, with ``plan`` of the pruned one, and with ``recovery`` of
        that, recovered: a dictionary with each metric of ``evaluation`` by its name ("perplexity"),
        and ``text``, ``window``, ``max_tokens``, ``tokens``.

        Each is stored by itself. Raises InputError at once for a metric that there is not.
        """
        metrics = chosen_metrics(evaluation.metrics)

        def compute(metric: Metric) -> dict:
            dense, tokenizer = self.model(spec)
            start = 0.2 if plan is None else 0.5
            with self.progress.within(0.2, start):
                model = self.variant(spec, plan, recovery)
            with self.progress.within(start, 1.0) as progress:
                return figure(metric, model, tokenizer, evaluation, dense=dense, progress=progress)

        identity = self.variant_identity(spec, plan, recovery)
        identity |= {"evaluation": evaluation.identity()}
        values, found = {}, {}
        for index, metric in enumerate(metrics):
            one, make = identity | metric.identity, functools.partial(compute, metric)
            with self.progress.share(index, len(metrics)):
                found = self.store.get(EVALUATIONS, one, make)
            values[metric.name] = found[metric.name]
        return values | found

    def reconstruction(
        self, spec: ModelSpec, plans: Mapping[str, PruningPlan], text: EvaluationSpec
    ) -> dict[str, ReconstructionErrors]:
        """The reconstruction errors of each plan's model, by its name, on windows of ``text``.

        Those that are not stored are measured in one pass, side by side.
        """
        self.bench.ensure_content(spec)
        identities = {
            name: {
                "model": spec.identity(),
                "plan": digest(plan.to_json()),
                "evaluation": text.identity(),
            }
            for name, plan in plans.items()
        }
        missing = {
            name: plans[name]
            for name, one in identities.items()
            if self.store.find(RECONSTRUCTION, one) is None
        }
        measured = self._reconstruct(spec, missing, text) if missing else {}
        return {
            name: self.store.get(RECONSTRUCTION, one, lambda n=name: measured[n])
            for name, one in identities.items()
        }

    def _reconstruct(
        self, spec: ModelSpec, plans: Mapping[str, PruningPlan], text: EvaluationSpec
    ) -> dict[str, ReconstructionErrors]:
        dense, tokenizer = self.model(spec)
        tokens = load_test_tokens(text.text, tokenizer, max_tokens=text.max_tokens)
        windows = CalibrationSet.from_tokens(cut_windows(dense, tokens, text.window))
        models = {}
        for index, (name, plan) in enumerate(plans.items()):
            with self.progress.within(0.2, 0.5), self.progress.share(index, len(plans)):
                models[name] = self.pruned(spec, plan)
        batch = max(1, 2048 // text.window)
        with self.progress.within(0.5, 1.0) as progress:
            return reconstruction_errors(
                dense, models, windows, batch_size=batch, progress=progress
            )

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
            if one is None or self.store.find(ZERO_SHOT, one) is None:
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

        def compute(task: str) -> TaskResult:
            with self.progress.within(0.0, 0.1):
                model = self.variant(spec, plan, recovery)
            tokenizer = self.model(spec)[1]
            with self.progress.within(0.1, 1.0) as progress:
                return run_task(model, tokenizer, task, **settings, progress=progress)

        identities = self._task_identities(spec, tasks, plan, recovery)
        for (task, one), (start, end) in zip(identities.items(), shares(tasks), strict=True):
            with self.progress.within(start, end):
                result = self.store.get(ZERO_SHOT, one, lambda t=task: compute(t))
            yield result

    def profile(
        self, spec: ModelSpec, plan: PlanSpec | None = None, **settings: Any
    ) -> tuple[Profile, Profile | None]:
        """The cost of the dense model and of the pruned one, by `profile_model` (``settings``).

        Measured anew each time: it depends on what else the machine is doing. What goes is
        chosen at random, since the cost depends on the widths alone.
        """
        model, _ = self.model(spec)
        chosen = self._any_plan(spec, plan) if plan else None
        with self.progress.within(0.2, 0.6) as progress:
            dense = profile_model(model, progress=progress, **settings)
        if chosen is None:
            return dense, None
        pruned = self.pruned(spec, chosen)
        with self.progress.within(0.6, 1.0) as progress:
            return dense, profile_model(pruned, progress=progress, **settings)

    def profile_shapes(
        self, spec: ModelSpec, plan: PlanSpec | None = None, *, seq_len: int
    ) -> tuple[Profile, Profile | None]:
        """The same from the configuration alone: counts only, nothing is loaded or run."""
        shape = Adapter(empty_model(load_config(spec.name, store=self.store))).shape
        dense = profile_shape(shape, seq_len=seq_len)
        if plan is None:
            return dense, None
        if plan.source:
            stored = self.stored_plan(plan.source)
            if stored.shape != shape:
                raise InputError("The plan was made for a model of another shape.")
            return dense, profile_shape(stored.pruned_shape, seq_len=seq_len)
        anyhow = replace(plan, propagation="dense")
        resolved = resolve(anyhow, find_criterion("random"), shape)
        return dense, profile_shape(allocated_shape(shape, resolved), seq_len=seq_len)

    def _any_plan(self, spec: ModelSpec, plan: PlanSpec) -> PruningPlan:
        """A plan that costs what ``plan`` does: scored at random, on the dense model, and nothing
        refitted, which changes no width."""
        score = ScoreSpec(spec, criterion="random")
        chosen = self.plan(score, replace(plan, propagation="dense"))
        if chosen.spec.get("compensation") != "least-squares":
            return chosen
        return replace(chosen, spec={**chosen.spec, "compensation": "none"})

    def generate(
        self,
        spec: ModelSpec,
        plan: PruningPlan | None,
        prompt: str,
        sampling: Sampling,
        recovery: RecoverySpec | None = None,
    ) -> Iterator[dict[str, Generated]]:
        """Continue ``prompt`` with the dense model, with ``plan`` the pruned one in turn, and with
        ``recovery`` that, recovered, too.

        Yields the state of all ("dense", "pruned", "recovered") after every round of one token
        each.
        """
        _, tokenizer = self.model(spec)
        states = states_of(plan, recovery)
        models = {name: self.variant(spec, *state) for name, state in states.items()}
        streams = {name: stream(m, tokenizer, prompt, sampling) for name, m in models.items()}
        state: dict[str, Generated] = {}
        while streams:
            for name in list(streams):
                state[name] = next(streams[name])
                if state[name].done:
                    del streams[name]
            yield dict(state)

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
