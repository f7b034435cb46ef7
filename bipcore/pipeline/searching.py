"""A search over the widths of a plan, led by the divergence on tokens that are held out."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..criteria import find_criterion
from ..errors import InputError
from ..models.batches import rows_for
from ..models.memory import check_free
from ..models.shapes import ModelShape
from ..models.streaming import check_whole
from ..progress import Progress, silent
from ..pruning.ladders import Ladders
from ..pruning.level_search import Levels, search_levels
from ..pruning.plan import PruningPlan
from ..pruning.resolving import BY_RANK, Resolved
from ..pruning.targets import Target, block_costs
from ..pruning.trials import Trials, trial_bytes
from ..specs import CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec
from ..store.kinds import digest
from ..store.resume import StoredJournal
from .deploying import check_taken, fitted, takes_other_widths
from .latency import latency_facts, timed_target
from .plans import Plans, config_for
from .workbench import Workbench


@dataclass(frozen=True)
class WidthSearch:
    """How long a search goes on: so many ``steps``, each a trial on ``samples`` of the calibration
    text, as long as those and none of them. Without steps the plan it begins with is measured.
    Raises InputError."""

    steps: int
    samples: int = 8

    def __post_init__(self) -> None:
        if self.steps < 0 or self.samples < 1:
            raise InputError("A search takes steps, or none, on at least 1 sample.")


def search_widths(
    plans: Plans,
    spec: ScoreSpec,
    plan: PlanSpec,
    start: PruningPlan,
    search: WidthSearch,
    target: Target | None = None,
) -> PruningPlan:
    """``start``, made with these settings, with the widths that a search finds: those of the least
    divergence from the dense model on held-out tokens that cost at most ``target``, or have no more
    parameters than ``start``. Every step is stored: a search that was stopped goes on, and one that
    is to take more steps begins where it ended. Raises InputError.
    """
    bench = plans.bench
    check_whole(bench.model(spec.model)[0], "A search over widths")
    scores = plans.scores(spec, plan)
    config = config_for(spec, plan)
    resolved = fitted(plan, find_criterion(spec.criterion), scores.shape, config)
    _check(start, resolved)
    if search.steps:
        _check_program(plan.deployable, scores.shape, config)
    counted = target or Target("params", start.pruned_shape.parameters, False, "", "params")
    if counted.kind == "latency":
        counted = timed_target(bench, spec.model, resolved.unit, counted)
    ladders = Ladders(scores, resolved, start, block_costs(counted, scores.shape))
    limit = sum(of[level] for of, level in zip(ladders.costs, ladders.start, strict=True))
    limit += counted.limit(start.shape) - counted.cost(start.pruned_shape)
    tokens = held_out_tokens(bench, spec.model, spec.calibration, search.samples)
    trying = _Trying(plans, spec.model, start, ladders, tokens, search.steps)
    with bench.progress.within(0.9, 1.0) as trying.progress:
        measure = trying.journalled(limit)
        steps = search_levels(ladders.costs, ladders.start, limit, measure, steps=search.steps)
    best = [step for step in steps if step.kept][-1]
    made = ladders.plan(best.levels)
    check_taken(replace(made, spec=start.spec), plan.deployable, config)
    said = {
        "steps": len(steps) - 1,
        "tokens": tokens.numel(),
        "divergence_before": steps[0].loss,
        "divergence": best.loss,
    }
    facts = {**start.spec, "sparsity": made.realised, "search": said}
    if counted.kind == "latency":
        facts |= {"latency": latency_facts(bench, spec.model, made, counted)}
    return replace(made, spec=facts)


def _check(start: PruningPlan, plan: Resolved) -> None:
    """Raise InputError where there is nothing to search."""
    if plan.allocation in BY_RANK:
        raise InputError(
            f"The allocation {plan.allocation!r} removes whole {BY_RANK[plan.allocation]}, so "
            "there are no widths to search; use another criterion."
        )
    if start.removes_nothing:
        raise InputError("A search begins with a plan that removes something; ask for more.")


def _check_program(program: str, shape: ModelShape, config) -> None:
    """Raise InputError where the ``program`` of the plan does not take what is searched."""
    if not takes_other_widths(program, shape, config):
        raise InputError(
            "A search gives every block widths of its own, which the program that the plan is for "
            "does not take; search no steps, or leave --deployable out."
        )


def _untimed(plan: PruningPlan) -> dict:
    """The spec of ``plan`` without times, which are others whenever they are taken."""
    return {name: said for name, said in plan.spec.items() if name != "latency"}


class _Trying:
    """The plans of a search, measured or read; the second moments are read when the first is."""

    def __init__(
        self,
        plans: Plans,
        model: ModelSpec,
        start: PruningPlan,
        ladders: Ladders,
        tokens: Tensor,
        steps: int,
    ) -> None:
        self._plans, self._model, self._start = plans, model, start
        self._ladders, self._tokens, self._steps = ladders, tokens, steps
        self._trials: Trials | None = None
        self.progress: Progress = silent

    def divergence(self, levels: Levels) -> float:
        """Nats a token."""
        if self._trials is None:
            dense, _ = self._plans.bench.model(self._model)
            check_free(dense, trial_bytes(dense, self._tokens), "hold fewer samples out")
            self._trials = Trials(
                dense,
                self._tokens,
                batch_size=rows_for(dense, self._tokens.shape[1], logits=True),
                compensation=self._start.spec.get("compensation", "none"),
                **self._plans.sources_of(self._model, self._start),
            )
        return self._trials.divergence(self._ladders.plan(levels))

    def journalled(self, limit: float) -> Callable[[Levels], float]:
        """`divergence`, but for the first steps of a search within ``limit`` that are stored; the
        others are added to them."""
        identity = {
            "search": digest(replace(self._start, spec=_untimed(self._start)).to_json()),
            "model": self._model.identity(),
            "tokens": digest(self._tokens.tolist()),
            "levels": digest(self._ladders.costs),
            "limit": limit,
        }
        journal = StoredJournal(self._plans.bench.store, identity)
        known, taken = iter(journal.entries()), itertools.count()

        def measure(levels: Levels) -> float:
            number = next(taken)
            self.progress(number / (self._steps + 1), f"Search, step {number} of {self._steps}")
            found = next(known, None)
            if found is None:
                found = list(levels), self.divergence(levels)
                journal.add(found)
            return float(found[1])

        return measure


def held_out_tokens(
    bench: Workbench, model: ModelSpec, calibration: CalibrationSpec, samples: int
) -> Tensor:
    """Token ids (``samples``, T) of the calibration text, drawn after those of ``calibration``.

    A draw begins with what a smaller one has; of several texts in shares, what both have is left
    out. Raises InputError where the text has too little left.
    """
    more = replace(calibration, samples=calibration.samples + samples)
    known = {tuple(row) for row in bench.calibration(model, calibration).tokens.tolist()}
    drawn = bench.calibration(model, more).tokens
    fresh = [row for row in drawn if tuple(row.tolist()) not in known]
    if len(fresh) < samples:
        raise InputError(
            f"The text {calibration.source!r} has only {len(fresh)} samples that are not "
            f"calibrated on, and {samples} are to be held out; use a larger text."
        )
    return torch.stack(fresh[:samples])
