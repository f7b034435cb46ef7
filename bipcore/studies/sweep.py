"""Sweeps: perplexity and cost against sparsity, for many criteria, calibration sizes and seeds.

A sweep is a list of points. Each is a pure function of its part of the spec and is stored when it
is done, so a sweep that was stopped goes on where it was.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from torch import nn

from ..criteria import find_criterion
from ..errors import InputError
from ..evaluation.profiling import (
    SEQ_LEN,
    profile_alone,
)
from ..models.adapters import Adapter
from ..models.loading import resolve_device
from ..pipeline.pipeline import Pipeline
from ..pipeline.provenance import score_identity
from ..progress import Progress
from ..pruning.plan import PruningPlan
from ..pruning.resolving import compensation_for, for_criterion
from ..settings import find_preset
from ..specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    ScoreSpec,
)
from ..store.kinds import Kind, digest
from .pieces import one_by_one

DENSE = "dense"
"""The label of the point of the dense model."""


@dataclass(frozen=True)
class SweepSpec:
    """What to measure: every criterion at every sparsity, on every calibration set.

    ``seeds`` draw the calibration samples; for the criterion "random" they are its own. ``samples``
    are calibration sizes. The samples and the seed of ``calibration`` and the sparsity and the
    source of ``plan`` do not count. ``presets`` (names of `PRESETS`) are lines of their own, whose
    criterion and plan settings are the preset's. ``profile``: latency and memory, too.
    """

    model: ModelSpec = field(default_factory=ModelSpec)
    criteria: tuple[str, ...] = ("llm-bip", "wanda-sp", "flap", "magnitude")
    sparsities: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    seeds: tuple[int, ...] = (0,)
    samples: tuple[int, ...] = (32,)
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    plan: PlanSpec = field(default_factory=PlanSpec)
    texts: tuple[EvaluationSpec, ...] = (EvaluationSpec(),)
    profile: bool = False
    presets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of the chart: a criterion and how its plans are made."""

    label: str
    criterion: str
    plan: PlanSpec

    @property
    def calibrated(self) -> bool:
        """Whether the calibration set matters, to the scores or to the compensation."""
        chosen = find_criterion(self.criterion)
        return chosen.calibrated or self.compensation != "none"

    @property
    def compensation(self) -> str:
        return compensation_for(self.plan.compensation, find_criterion(self.criterion))

    def task(self, spec: SweepSpec, sparsity: float, seed: int | None, samples: int | None):
        """The `Task` of one point; ``seed`` and ``samples`` are None where they do not matter."""
        drawn = {"samples": samples, "seed": seed} if samples is not None else {}
        calibration = replace(spec.calibration, **drawn)
        own_seed = seed is not None and "seed" in find_criterion(self.criterion).options
        options = (("seed", seed),) if own_seed else ()
        score = ScoreSpec(spec.model, calibration, self.criterion, options)
        return Task(self.label, score, replace(self.plan, sparsity=sparsity), seed, samples)


@dataclass(frozen=True)
class Task:
    """A point to be computed; ``plan`` is None for the dense model."""

    label: str
    score: ScoreSpec
    plan: PlanSpec | None = None
    seed: int | None = None
    samples: int | None = None

    @property
    def cuts(self) -> bool:
        """Whether anything is removed."""
        return self.plan is not None and self.plan.sparsity > 0

    @property
    def facts(self) -> dict[str, Any]:
        """What the point is of: label, criterion, sparsity, seed, samples."""
        return {
            "label": self.label,
            "criterion": self.score.criterion if self.plan else DENSE,
            "sparsity": self.plan.sparsity if self.plan else 0.0,
            "seed": self.seed,
            "samples": self.samples,
        }

    def __str__(self) -> str:
        return f"{self.label} at {100 * self.plan.sparsity:g} %" if self.plan else "dense model"


def lines(spec: SweepSpec) -> list[Line]:
    """The lines of the chart: the criteria, then the presets."""
    base = replace(spec.plan, source="")
    found = [Line(name, name, base) for name in dict.fromkeys(spec.criteria)]
    for name in dict.fromkeys(spec.presets):
        values = dict(find_preset(name).values)
        criterion = values.pop("criterion", ScoreSpec().criterion)
        known = {k: v for k, v in values.items() if k in PlanSpec.__dataclass_fields__}
        found.append(Line(name, criterion, replace(base, **known)))
    return found


def tasks(spec: SweepSpec) -> list[Task]:
    """All points of a sweep, in the order in which they are computed.

    The dense model comes first, then what needs no calibration, then one calibration set after
    the other. A sparsity of 0 is the dense model: one point a line.
    """
    found = [Task(DENSE, ScoreSpec(spec.model))]
    sparsities = sorted({s for s in spec.sparsities if s})
    every, seeds = lines(spec), list(dict.fromkeys(spec.seeds))
    if 0 in spec.sparsities:
        found += [line.task(spec, 0.0, None, None) for line in every]
    for line in every:
        if not line.calibrated:
            own = seeds if "seed" in find_criterion(line.criterion).options else [None]
            found += [line.task(spec, s, seed, None) for seed in own for s in sparsities]
    for seed in seeds:
        for samples in dict.fromkeys(spec.samples):
            for line in every:
                if line.calibrated:
                    found += [line.task(spec, s, seed, samples) for s in sparsities]
    return found


def text_names(texts: Sequence[EvaluationSpec]) -> dict[str, EvaluationSpec]:
    """The test texts by short names: the window is said only where it tells two apart."""
    texts = tuple(dict.fromkeys(texts))
    ways: tuple[Callable[[EvaluationSpec], str], ...] = (
        lambda e: Path(e.text).name,
        lambda e: f"{Path(e.text).name}-{e.window}",
        lambda e: f"{e.text}-{e.window}-{e.max_tokens or 'all'}",
    )
    for way in ways:
        found = {way(text): text for text in texts}
        if len(found) == len(texts):
            break
    return found


def check_sweep(spec: SweepSpec) -> None:
    """Raise InputError for a sweep that is wrong as a whole. Nothing is loaded for it."""
    for name in spec.criteria:
        find_criterion(name)
    for name in spec.presets:
        find_preset(name)
    if not spec.criteria and not spec.presets:
        raise InputError("A sweep needs at least one criterion or preset.")
    for name in ("sparsities", "seeds", "samples", "texts"):
        if not getattr(spec, name):
            what = {"samples": "calibration sizes", "texts": "test texts"}.get(name, name)
            raise InputError(f"The list of {what} is empty; give at least one.")
    for sparsity in spec.sparsities:
        replace(spec.plan, sparsity=sparsity)
    for seed, samples in product(spec.seeds, spec.samples):
        replace(spec.calibration, seed=seed, samples=samples)


__all__ = ["DENSE", "Point", "SweepSpec", "run_sweep", "tasks", "text_names"]


@dataclass(frozen=True)
class Point:
    """What was measured of one pruned model, or why it could not be made (``error``).

    ``label`` is the criterion's or the preset's name, or `DENSE`. ``seed`` and ``samples`` are
    None where the point does not depend on them. ``realised`` and ``realised_total``: the share
    of the blocks' and of all parameters that is gone. ``macs`` are those of ``seq_len`` tokens.
    ``perplexity`` is by the names that `text_names` gives. ``latency`` is in seconds,
    ``peak_memory`` in bytes (see `profile_alone`); ``seconds`` is what the point took when it was
    computed.
    """

    label: str
    criterion: str
    sparsity: float
    seed: int | None = None
    samples: int | None = None
    realised: float | None = None
    realised_total: float | None = None
    parameters: int | None = None
    macs: int | None = None
    seq_len: int | None = None
    perplexity: Mapping[str, float] = field(default_factory=dict)
    latency: float | None = None
    tokens_per_second: float | None = None
    peak_memory: int | None = None
    seconds: float | None = None
    error: str = ""


POINTS: Kind[dict] = Kind("points", "points of sweeps")


def run_sweep(pipeline: Pipeline, spec: SweepSpec) -> Iterator[Point]:
    """The points of a sweep, one by one, read from the run store where they are in it.

    A point that cannot be made comes with its ``error``, and the others go on. Raises InputError,
    before anything is loaded, for a spec that is wrong as a whole; then for a model or a text
    that cannot be used.
    """
    check_sweep(spec)
    return _points(pipeline, spec, tasks(spec))


def _points(pipeline: Pipeline, spec: SweepSpec, todo: list[Task]) -> Iterator[Point]:
    return one_by_one(
        pipeline.progress,
        todo,
        _Measure(pipeline, spec),
        title=str,
        may_fail=lambda task: task.cuts,
        refused=lambda task, sentence: Point(**task.facts, error=sentence),
    )


class _Measure:
    """Measures the points of one sweep, or reads them from the run store."""

    def __init__(self, pipeline: Pipeline, spec: SweepSpec):
        self.pipeline, self.spec = pipeline, spec
        self.texts = text_names(spec.texts)
        self.digests = {name: digest(text.identity()) for name, text in self.texts.items()}
        self.dense: dict[str, Any] = {}

    def __call__(self, task: Task) -> Point:
        """The point; that of a plan which cuts nothing is the dense model's, which comes first."""
        if task.plan is None:
            self.dense = self._values(task)
            return Point(**task.facts, **self.dense)
        values = self._values(task) if task.cuts else self.dense | {"seconds": 0.0}
        return Point(**task.facts, **values)

    def _values(self, task: Task) -> dict[str, Any]:
        """What `Point` says was measured, by name."""
        if self.spec.model.identity()["content"] is None:  # a hub model that is not here yet
            self.pipeline.model(self.spec.model)
        store = self.pipeline.store
        found = store.get(POINTS, self._identity(task), lambda: self._compute(task))
        values = {name: found["perplexity"][key] for name, key in self.digests.items()}
        return found | {"perplexity": values}

    def _identity(self, task: Task) -> dict:
        """What the point depends on: the order and the names of the texts do not count."""
        device = resolve_device(self.spec.model.device) if self.spec.profile else None
        common = {"texts": sorted(self.digests.values()), "profile": device}
        if task.plan is None:
            return common | {"model": self.spec.model.identity(), "plan": None}
        plan = for_criterion(task.plan, find_criterion(task.score.criterion))
        settings = plan.choice | {"propagation": plan.propagation}
        made_up = task.score.calibration.identity() if plan.compensation != "none" else None
        settings |= {"compensation": plan.compensation, "compensation_calibration": made_up}
        return common | {"scores": score_identity(task.score, task.plan), "plan": settings}

    def _compute(self, task: Task) -> dict:
        pipeline, progress, started = self.pipeline, self.pipeline.progress, time.perf_counter()
        with progress.within(0.0, 0.5):
            plan = pipeline.plan(task.score, task.plan) if task.plan else None
        with progress.within(0.5, 0.6):
            dense, _ = pipeline.model(self.spec.model)
            model = pipeline.pruned(self.spec.model, plan) if plan else dense
        perplexities = {}
        for index, (name, text) in enumerate(self.texts.items()):
            with progress.within(0.6, 0.9), progress.share(index, len(self.texts)):
                found = pipeline.evaluate(self.spec.model, text, plan)
            perplexities[self.digests[name]] = found["perplexity"]
        with progress.within(0.9, 1.0):
            profile = _measured(model, progress) if self.spec.profile else {}
        return {
            **_counted(plan, dense),
            **profile,
            "perplexity": perplexities,
            "seconds": time.perf_counter() - started,
        }


def _counted(plan: PruningPlan | None, dense: nn.Module) -> dict:
    """What the sizes say, by the names of `Point`."""
    shape = plan.pruned_shape if plan else Adapter(dense).shape
    seq_len = min(SEQ_LEN, shape.max_positions or SEQ_LEN)
    return {
        "realised": plan.realised if plan else 0.0,
        "realised_total": plan.realised_total if plan else 0.0,
        "parameters": shape.parameters,
        "macs": shape.macs(seq_len),
        "seq_len": seq_len,
    }


def _measured(model: nn.Module, progress: Progress) -> dict:
    """Latency, throughput and memory, by the names of `Point`."""
    found = profile_alone(model, progress=progress)
    return {name: getattr(found, name) for name in ("latency", "tokens_per_second", "peak_memory")}
