"""Sweeps: perplexity and cost against sparsity, for many criteria, calibration sizes and seeds.

A sweep is a list of points. Each is a pure function of its part of the spec and is stored when it
is done, so a sweep that was stopped goes on where it was.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn

from ..criteria import find_criterion
from ..errors import InputError
from ..evaluation.metrics import chosen_metrics
from ..evaluation.profiling import SEQ_LEN, profile_model
from ..models.adapters import Adapter
from ..models.devices import resolve_device
from ..models.processes import place
from ..pipeline.ahead import Ahead
from ..pipeline.pipeline import Pipeline
from ..pipeline.provenance import counted, is_propagated, score_identity
from ..progress import Progress
from ..pruning.plan import PruningPlan
from ..pruning.resolving import compensation_for, for_criterion
from ..specs import PERPLEXITY
from ..store.kinds import digest
from .pieces import one_by_one
from .points import POINTS, Point, PointSpec, SweepSpec, check_sweep, point_specs, text_names


def run_sweep(pipeline: Pipeline, spec: SweepSpec) -> Iterator[Point]:
    """The points of a sweep, one by one, read from the run store where they are in it.

    A point that cannot be made comes with its ``error``, and the others go on. Raises InputError,
    before anything is loaded, for a spec that is wrong as a whole; then for a model or a text
    that cannot be used.
    """
    check_sweep(spec)
    return _points(pipeline, spec, point_specs(spec))


def _points(pipeline: Pipeline, spec: SweepSpec, todo: list[PointSpec]) -> Iterator[Point]:
    measure = _Measure(pipeline, spec)
    if place().count > 1 and not spec.profile:  # what runs beside would count
        measure.ahead = _ahead(measure, todo)
    return one_by_one(
        pipeline.progress,
        todo,
        measure,
        title=str,
        may_fail=lambda wanted: wanted.cuts,
        refused=lambda wanted, sentence: Point(**wanted.facts, error=sentence),
    )


class _Measure:
    """Measures the points of one sweep, or reads them from the run store."""

    def __init__(self, pipeline: Pipeline, spec: SweepSpec):
        self.pipeline, self.spec = pipeline, spec
        self.texts = text_names(spec.texts)
        self.digests = {name: digest(text.asked()) for name, text in self.texts.items()}
        self.dense: dict[str, Any] = {}
        self.ahead: Callable[[PointSpec], None] = lambda wanted: None

    def __call__(self, wanted: PointSpec) -> Point:
        """The point; that of a plan which cuts nothing is the dense model's, which comes first."""
        if wanted.plan is None:
            self.dense = self.values(wanted)
            return Point(**wanted.facts, **self.dense)
        values = self.values(wanted) if wanted.cuts else self.dense | {"seconds": 0.0}
        return Point(**wanted.facts, **values)

    def values(self, wanted: PointSpec) -> dict[str, Any]:
        """What `Point` says was measured, by name."""
        if self.spec.model.identity()["content"] is None:  # a hub model that is not here yet
            self.pipeline.model(self.spec.model)
        self.ahead(wanted)
        store = self.pipeline.store
        identity, facts = self._identity(wanted), self._made(wanted)
        found = store.get(POINTS, identity, lambda: self._compute(wanted), lambda: facts)
        stored = {PERPLEXITY: found["perplexity"], **found.get("more", {})}
        values = {
            metric: {name: of_text[key] for name, key in self.digests.items() if key in of_text}
            for metric, of_text in stored.items()
        }
        return found | {"perplexity": values.pop(PERPLEXITY), "more": values}

    def _identity(self, wanted: PointSpec) -> dict:
        """What the point depends on: the order and the names of the texts do not count."""
        device = resolve_device(self.spec.model.device) if self.spec.profile else None
        common = {"texts": sorted(self.digests.values()), "profile": device}
        if wanted.plan is None:
            return common | {"model": self.spec.model.identity(), "plan": None}
        plan = for_criterion(wanted.plan, find_criterion(wanted.score.criterion))
        settings = plan.choice | {"propagation": plan.propagation}
        made_up = wanted.score.calibration.identity() if plan.compensation != "none" else None
        settings |= {"compensation": plan.compensation, "compensation_calibration": made_up}
        return common | {"scores": score_identity(wanted.score, wanted.plan), "plan": settings}

    def _made(self, wanted: PointSpec) -> dict:
        """What a list of results tells of a point: what texts it has digests of, and its line."""
        texts = {self.digests[name]: text.identity() for name, text in self.texts.items()}
        return {"label": wanted.label, "texts": texts}

    def _compute(self, wanted: PointSpec) -> dict:
        pipeline, progress, started = self.pipeline, self.pipeline.progress, time.perf_counter()
        with progress.within(0.0, 0.5):
            plan = pipeline.plan(wanted.score, wanted.plan) if wanted.plan else None
        with progress.within(0.5, 0.6):
            dense, _ = pipeline.model(self.spec.model)
            model = pipeline.pruned(self.spec.model, plan) if plan else dense
        values: dict[str, dict[str, float]] = {PERPLEXITY: {}}
        for index, (name, text) in enumerate(self.texts.items()):
            with progress.within(0.6, 0.9), progress.share(index, len(self.texts)):
                found = pipeline.evaluate(self.spec.model, text, plan)
            for metric in chosen_metrics(text.metrics):
                of_text = values.setdefault(metric.name, {})
                of_text[self.digests[name]] = found[metric.name]
        measured = {"perplexity": values.pop(PERPLEXITY)} | ({"more": values} if values else {})
        with progress.within(0.9, 1.0):
            profile = _measured(model, progress) if self.spec.profile else {}
        return {
            **_counted(plan, dense),
            **profile,
            **measured,
            "seconds": time.perf_counter() - started,
        }

    def missing(self, wanted: PointSpec) -> bool:
        """Whether the point is not stored, and may be made."""
        try:
            return self.pipeline.store.find(POINTS, self._identity(wanted)) is None
        except InputError:  # which its turn will say
            return False


def _ahead(measure: _Measure, todo: list[PointSpec]) -> Ahead[PointSpec]:
    """Makes points by several processes, and before them the scores that no forward pass gives
    which all share."""
    pipeline, spec = measure.pipeline, measure.spec
    first: dict[str, PointSpec] = {}
    for wanted in todo:
        if name := _scored_alone(wanted):
            first.setdefault(name, wanted)
    score = Ahead(
        pipeline,
        _make_scores,
        first,
        store=pipeline.store,
        missing=lambda name: not pipeline.has_scores(first[name].score),
        prepare=lambda name: pipeline.bench.locate(spec.model),
    )

    def prepare(wanted: PointSpec) -> None:
        pipeline.bench.locate(spec.model)
        if wanted.plan is None:
            return
        score(_scored_alone(wanted))
        if not is_propagated(wanted.plan):
            pipeline.plan(wanted.score, wanted.plan)
        criterion = find_criterion(wanted.score.criterion)
        compensation = compensation_for(wanted.plan.compensation, criterion)
        pipeline.plans.sources(spec.model, wanted.score.calibration, compensation)

    pieces = {wanted: (spec, wanted) for wanted in todo if wanted.plan is None or wanted.cuts}
    how = {"store": pipeline.store, "missing": measure.missing, "prepare": prepare}
    return Ahead(pipeline, _make_point, pieces, **how)


def _scored_alone(wanted: PointSpec) -> str:
    """What identifies the scores of a point, where one process makes them and other points may have
    the same; empty where that is not so."""
    alone = find_criterion(wanted.score.criterion).needs != "activations"
    if not wanted.cuts or not alone or is_propagated(wanted.plan):
        return ""
    try:
        return digest(score_identity(wanted.score))
    except InputError:  # which the point will say
        return ""


def _make_scores(pipeline: Pipeline, wanted: PointSpec) -> None:
    pipeline.plan(wanted.score, wanted.plan)


def _make_point(pipeline: Pipeline, arguments: tuple[SweepSpec, PointSpec]) -> None:
    spec, wanted = arguments
    _Measure(pipeline, spec).values(wanted)


def _counted(plan: PruningPlan | None, dense: nn.Module) -> dict:
    """What the sizes say, by the names of `Point`."""
    return {
        "realised": plan.realised if plan else 0.0,
        "realised_total": plan.realised_total if plan else 0.0,
        **counted(plan.pruned_shape if plan else Adapter(dense).shape),
    }


def _measured(model: nn.Module, progress: Progress) -> dict:
    """Latency, throughput and memory, by the names of `Point`."""
    seq_len = min(SEQ_LEN, Adapter(model).shape.max_positions or SEQ_LEN)
    found = profile_model(model, seq_len=seq_len, progress=progress)
    return {name: getattr(found, name) for name in ("latency", "tokens_per_second", "peak_memory")}
