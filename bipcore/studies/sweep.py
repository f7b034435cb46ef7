"""Sweeps: perplexity and cost against sparsity, for many criteria, calibration sizes and seeds.

A sweep is a list of points. Each is a pure function of its part of the spec and is stored when it
is done, so a sweep that was stopped goes on where it was.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import nn

from ..errors import explain
from ..evaluation.profiling import PeakMemory, Profile, profile_model
from ..models.adapters import Adapter
from ..models.heap import give_back_freed_memory
from ..models.loading import resolve_device
from ..pipeline.pipeline import Pipeline
from ..pipeline.provenance import score_identity
from ..progress import Progress, part
from ..pruning.compensation import resolve_compensation
from ..pruning.plan import PruningPlan, resolve_allocation
from ..store.runs import digest
from .sweep_specs import DENSE, SweepSpec, Task, check_sweep, tasks, text_names

__all__ = ["DENSE", "Point", "SweepSpec", "run_sweep", "tasks", "text_names"]

SEQ_LEN = 512
"""Tokens at which MACs, latency and memory are taken, or the model's limit where that is less."""


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


def run_sweep(pipeline: Pipeline, spec: SweepSpec) -> Iterator[Point]:
    """The points of a sweep, one by one, read from the run store where they are in it.

    A point that cannot be made comes with its ``error``, and the others go on. Raises InputError,
    before anything is loaded, for a spec that is wrong as a whole; then for a model or a text
    that cannot be used.
    """
    check_sweep(spec)
    return _points(pipeline, spec, tasks(spec))


def _points(pipeline: Pipeline, spec: SweepSpec, todo: list[Task]) -> Iterator[Point]:
    outer, dense = pipeline.progress, {}
    measure = None
    for index, task in enumerate(todo):
        pipeline.progress = _share(outer, index, len(todo), str(task))
        try:
            pipeline.progress(0.0, "")
            measure = measure or _Measure(pipeline, spec)
            if task.plan is None:
                point = Point(**task.facts, **(dense := measure(task)))
            elif task.cuts:
                point = _try(measure, task)
            else:
                point = Point(**task.facts, **dense | {"seconds": 0.0})
        finally:
            pipeline.progress = outer
        yield point


def _share(outer: Progress, index: int, count: int, title: str) -> Progress:
    """The progress of one point of ``count``: it says which one, and never goes back."""
    best = 0.0

    def report(fraction: float, message: str) -> None:
        nonlocal best
        best = max(best, fraction)
        outer((index + best) / count, f"{title} ({index + 1} of {count})")

    return report


def _try(measure: Callable[[Task], dict], task: Task) -> Point:
    """The point, or the sentence that says why there is none.

    An error of the run store, which has the system's error as its cause, is not the point's.
    """
    try:
        return Point(**task.facts, **measure(task))
    except Exception as error:
        sentence = explain(error)
        if sentence is None or error.__cause__ is not None:
            raise
        return Point(**task.facts, error=sentence)


class _Measure:
    """Measures the points of one sweep, or reads them from the run store."""

    def __init__(self, pipeline: Pipeline, spec: SweepSpec):
        self.pipeline, self.spec = pipeline, spec
        self.texts = text_names(spec.texts)
        self.digests = {name: digest(text.identity()) for name, text in self.texts.items()}
        if spec.model.identity()["content"] is None:  # a hub model that is not here yet
            pipeline.model(spec.model)

    def __call__(self, task: Task) -> dict:
        """What `Point` says was measured, by name."""
        store = self.pipeline.store
        found = store.json("points", self._identity(task), lambda: self._compute(task))
        values = {name: found["perplexity"][key] for name, key in self.digests.items()}
        return found | {"perplexity": values}

    def _identity(self, task: Task) -> dict:
        """What the point depends on: the order and the names of the texts do not count."""
        device = resolve_device(self.spec.model.device) if self.spec.profile else None
        common = {"texts": sorted(self.digests.values()), "profile": device}
        if task.plan is None:
            return common | {"model": self.spec.model.identity(), "plan": None}
        criterion, plan = task.score.criterion, task.plan
        compensation = resolve_compensation(plan.compensation, criterion)
        allocation = resolve_allocation(plan.allocation, criterion)
        settings = plan.choice | {"allocation": allocation, "propagation": plan.propagation}
        made_up = task.score.calibration.identity() if compensation != "none" else None
        return common | {
            "scores": score_identity(task.score, plan),
            "plan": settings | {"compensation": compensation, "compensation_calibration": made_up},
        }

    def _compute(self, task: Task) -> dict:
        pipeline, report, started = self.pipeline, self.pipeline.progress, time.perf_counter()
        pipeline.progress = part(report, 0.0, 0.5)
        plan = pipeline.plan(task.score, task.plan) if task.plan else None
        pipeline.progress = part(report, 0.5, 0.6)
        dense, _ = pipeline.model(self.spec.model)
        model = pipeline.pruned(self.spec.model, plan) if plan else dense
        pipeline.progress = part(report, 0.6, 0.9)
        perplexities = {
            self.digests[name]: pipeline.evaluate(self.spec.model, text, plan)["perplexity"]
            for name, text in self.texts.items()
        }
        pipeline.progress = part(report, 0.9, 1.0)
        return {
            **_counted(plan, dense),
            **(_measured(model, pipeline.progress) if self.spec.profile else {}),
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


def profile_alone(model: nn.Module, *, progress: Progress | None = None) -> Profile:
    """The `Profile` of ``model`` as if nothing else were held beside it.

    Its ``peak_memory`` is the model's weights and what a forward pass adds to the memory that was
    in use before: other models that the process holds do not count.
    """
    adapter = Adapter(model)
    seq_len = min(SEQ_LEN, adapter.shape.max_positions or SEQ_LEN)
    give_back_freed_memory()
    with PeakMemory(adapter.input_device) as before:
        pass
    found = profile_model(model, seq_len=seq_len, progress=progress)
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    return replace(found, peak_memory=weights + max(found.peak_memory - before.bytes, 0))
