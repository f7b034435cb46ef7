"""What a model is worth in whichever of its states: figures, errors, tasks, cost, continuations."""

import functools
import operator
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from ..criteria import find_criterion
from ..data.samples import CalibrationSet
from ..data.tasks import check_data
from ..errors import InputError
from ..evaluation.metrics import (
    EVALUATIONS,
    chosen_metrics,
    cut_windows,
    figures,
    find_metric,
    tokens_of,
)
from ..evaluation.profiling import Profile, profile_model, profile_shape
from ..evaluation.reconstruction import RECONSTRUCTION, ReconstructionErrors, reconstruction_errors
from ..evaluation.zero_shot import (
    ZERO_SHOT,
    TaskResult,
    check_tasks,
    requests_of,
    run_task,
    shares,
    task_identity,
)
from ..models.adapters import Adapter
from ..models.batches import rows_for
from ..models.devices import resolve_device
from ..models.generation import Generated, Sampling, stream
from ..models.loading import empty_model, load_config
from ..models.processes import together
from ..models.streaming import is_streamed
from ..pruning.allocation import allocated_shape
from ..pruning.plan import PruningPlan
from ..specs import EvaluationSpec, ModelSpec, PlanSpec, RecoverySpec, ScoreSpec, ZeroShotSpec
from ..store.runs import timed
from .ahead import Ahead
from .deploying import fitted
from .kept import resident_bytes
from .provenance import made_with, reconstruction_identity
from .recoveries import Recoveries, State, states_of


class Measurements:
    """Measures models in the states that `Recoveries` hands out."""

    def __init__(self, states: Recoveries) -> None:
        self.states, self.plans, self.bench = states, states.plans, states.bench

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

        identity = self.states.variant_identity(spec, plan, recovery)
        identity |= {"evaluation": evaluation.identity()}
        identities = {metric.name: identity | metric.identity for metric in metrics}
        store, measured, took = self.bench.store, {}, [0.0]

        def compute(name: str) -> dict:
            if name not in measured:
                started = time.perf_counter()
                self.states.prepare(spec, plan, recovery)
                missing = (
                    other
                    for other, one in identities.items()
                    if other == name or store.find(EVALUATIONS, one) is None
                )
                asked = tuple(missing), evaluation, spec, plan, recovery
                measured.update(together(self, Measurements.measure, *asked))
                took[0] = time.perf_counter() - started
            return measured[name]

        def made() -> dict:
            return self.states.made(spec, plan, recovery) | {"seconds": took[0]}

        found = {
            name: store.get(EVALUATIONS, one, functools.partial(compute, name), made)
            for name, one in identities.items()
        }
        values = {name: of_text[name] for name, of_text in found.items()}
        return functools.reduce(operator.or_, found.values(), values)

    def measure(
        self,
        metrics: tuple[str, ...],
        evaluation: EvaluationSpec,
        spec: ModelSpec,
        plan: PruningPlan | None,
        recovery: RecoverySpec | None,
    ) -> dict[str, dict]:
        """What `evaluate` stores of each of these metrics, measured in one pass."""
        dense, tokenizer = self.bench.model(spec)
        start = 0.2 if plan is None else 0.5
        with self.bench.progress.within(0.2, start):
            model = self.states.variant(spec, plan, recovery)
        with self.bench.progress.within(start, 1.0) as progress:
            chosen = [find_metric(name) for name in metrics]
            return figures(chosen, model, tokenizer, evaluation, dense=dense, progress=progress)

    def reconstruction(
        self, spec: ModelSpec, plans: Mapping[str, PruningPlan], text: EvaluationSpec
    ) -> dict[str, ReconstructionErrors]:
        """The reconstruction errors of each plan's model, by its name, on windows of ``text``.

        Those that are not stored are measured in one pass, side by side, or in as many as it
        takes where the models do not fit into memory together.
        """
        self.bench.ensure_content(spec)
        identities = {
            name: reconstruction_identity(spec, plan, text) for name, plan in plans.items()
        }
        missing = {
            name: plans[name]
            for name, one in identities.items()
            if self.bench.store.find(RECONSTRUCTION, one) is None
        }
        compute = functools.partial(self._reconstruct, spec, missing, text)
        measured, took = timed(compute, dict) if missing else ({}, {})

        def result(name: str) -> ReconstructionErrors:
            made = functools.partial(made_with, plans[name].shape, plans[name])
            kept = RECONSTRUCTION, identities[name], lambda: measured[name], lambda: made() | took
            return self.bench.store.get(*kept)

        return {name: result(name) for name in plans}

    def _reconstruct(
        self, spec: ModelSpec, plans: Mapping[str, PruningPlan], text: EvaluationSpec
    ) -> dict[str, ReconstructionErrors]:
        dense, tokenizer = self.bench.model(spec)
        tokens, _ = tokens_of(text, dense, tokenizer)
        windows = CalibrationSet.from_tokens(cut_windows(dense, tokens, text.window))
        batch, measured, count = rows_for(dense, text.window), {}, len(plans)
        within = self.bench.progress.within
        while (done := len(measured)) < count:
            missing = {name: plan for name, plan in plans.items() if name not in measured}
            with within(done / count, (done + 0.4) / count):
                models = self._side_by_side(spec, dense, missing)
            with within((done + 0.4) / count, (done + len(models)) / count) as progress:
                measured |= reconstruction_errors(
                    dense, models, windows, batch_size=batch, progress=progress
                )
            del models  # before the next are made
        return measured

    def _side_by_side(
        self, spec: ModelSpec, dense: nn.Module, plans: Mapping[str, PruningPlan]
    ) -> dict[str, nn.Module]:
        """The models of the first of ``plans``, by name: one, and as many more as there is room
        for beside what is kept."""
        models, size = {}, 0 if is_streamed(dense) else resident_bytes(dense)
        room = {"device": resolve_device(spec.device), "memory": spec.memory}
        for index, (name, plan) in enumerate(plans.items()):
            if models and not self.bench.kept.has_room((1 + len(models)) * size, **room):
                break
            with self.bench.progress.share(index, len(plans)):
                models[name] = self.plans.pruned(spec, plan)
        return models

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
            if one is None or self.bench.store.find(ZERO_SHOT, one) is None:
                check_data(task, tasks.num_fewshot)

    def tasks_ahead(
        self, spec: ModelSpec, tasks: ZeroShotSpec, states: Mapping[str, State]
    ) -> Ahead[tuple[str, str]]:
        """Makes the results of tasks in states, each a (task, name of the state), by several
        processes."""
        pieces = {
            (task, name): (spec, replace(tasks, tasks=(task,)), *state)
            for task in tasks.tasks
            for name, state in states.items()
        }

        def missing(piece: tuple[str, str]) -> bool:
            identity = self._task_identities(*pieces[piece])[piece[0]]
            return self.bench.store.find(ZERO_SHOT, identity) is None

        return Ahead(
            self,
            _make_task,
            pieces,
            store=self.bench.store,
            missing=missing,
            prepare=lambda piece: self.states.prepare(spec, *states[piece[1]]),
            weight=lambda piece: requests_of(piece[0], tasks.limit),
        )

    def _task_identities(
        self,
        spec: ModelSpec,
        tasks: ZeroShotSpec,
        plan: PruningPlan | None,
        recovery: RecoverySpec | None,
    ) -> dict[str, dict]:
        made = self.states.variant_identity(spec, plan, recovery)
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
            with self.bench.progress.within(0.0, 0.1):
                model = self.states.variant(spec, plan, recovery)
            tokenizer = self.bench.model(spec)[1]
            with self.bench.progress.within(0.1, 1.0) as progress:
                return run_task(model, tokenizer, task, **settings, progress=progress)

        identities = self._task_identities(spec, tasks, plan, recovery)
        for (task, one), (start, end) in zip(identities.items(), shares(tasks), strict=True):
            with self.bench.progress.within(start, end):
                made = functools.partial(self.states.made, spec, plan, recovery)
                result = self.bench.store.get(ZERO_SHOT, one, lambda t=task: compute(t), made)
            yield result

    def profile(
        self, spec: ModelSpec, plan: PlanSpec | None = None, **settings: Any
    ) -> tuple[Profile, Profile | None]:
        """The cost of the dense model and of the pruned one, by `profile_model` (``settings``).

        Measured anew each time: it depends on what else the machine is doing. What goes is
        chosen at random, since the cost depends on the widths alone.
        """
        model, _ = self.bench.model(spec)
        chosen = self._any_plan(spec, plan) if plan else None
        with self.bench.progress.within(0.2, 0.6) as progress:
            dense = profile_model(model, progress=progress, **settings)
        if chosen is None:
            return dense, None
        pruned = self.plans.pruned(spec, chosen)
        with self.bench.progress.within(0.6, 1.0) as progress:
            return dense, profile_model(pruned, progress=progress, **settings)

    def profile_shapes(
        self, spec: ModelSpec, plan: PlanSpec | None = None, *, seq_len: int
    ) -> tuple[Profile, Profile | None]:
        """The same from the configuration alone: counts only, nothing is loaded or run."""
        config = load_config(spec.name, store=self.bench.store)
        shape = Adapter(empty_model(config)).shape
        dense = profile_shape(shape, seq_len=seq_len)
        if plan is None:
            return dense, None
        if plan.source:
            stored = self.plans.stored_plan(plan.source)
            if stored.shape != shape:
                raise InputError("The plan was made for a model of another shape.")
            return dense, profile_shape(stored.pruned_shape, seq_len=seq_len)
        anyhow = replace(plan, propagation="dense")
        resolved = fitted(anyhow, find_criterion("random"), shape, config)
        return dense, profile_shape(allocated_shape(shape, resolved), seq_len=seq_len)

    def _any_plan(self, spec: ModelSpec, plan: PlanSpec) -> PruningPlan:
        """A plan that costs what ``plan`` does: scored at random, on the dense model, and nothing
        refitted, which changes no width."""
        score = ScoreSpec(spec, criterion="random")
        chosen = self.plans.plan(score, replace(plan, propagation="dense"))
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
        _, tokenizer = self.bench.model(spec)
        states = states_of(plan, recovery)
        models = {name: self.states.variant(spec, *state) for name, state in states.items()}
        streams = {name: stream(m, tokenizer, prompt, sampling) for name, m in models.items()}
        state: dict[str, Generated] = {}
        while streams:
            for name in list(streams):
                state[name] = next(streams[name])
                if state[name].done:
                    del streams[name]
            yield dict(state)


def _make_task(measurements: Measurements, arguments: tuple) -> None:
    """Make the results that `Measurements.zero_shot` yields, for the store."""
    for _ in measurements.zero_shot(*arguments):
        pass
