"""Reproducing the paper's tables and figures: a spec's rows, measured one by one.

Every piece (scores, perplexities, tasks, fine-tuning) goes through the run store, and so does
every finished row: a run that was stopped goes on where it was. Only what depends on the machine
(seconds of pruning, and of a pass) is measured anew each time.
"""

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from ...criteria import find_criterion, memory_of, score
from ...criteria.moments import SecondMoments, collect_second_moments
from ...criteria.statistics import collect_statistics
from ...data.samples import CalibrationSet
from ...evaluation.profiling import Profile, profile_model
from ...evaluation.zero_shot import TaskResult, average
from ...models.batches import rows_for
from ...models.memory import check_free
from ...pipeline.pipeline import Pipeline
from ...progress import Progress, Tracker, tracked
from ...pruning.choosing import make_plan
from ...pruning.compensation import compensate
from ...pruning.plan import PruningPlan
from ...pruning.resolving import compensation_for
from ...pruning.slicing import apply_plan
from ...specs import CalibrationSpec, PlanSpec, ScoreSpec
from ..pieces import one_by_one
from ..points import DENSE, Point, text_names
from ..sweep import run_sweep
from .rows import BATCH, REPRODUCTIONS, Measured, Row, column, count_cells, row_identity, stored_row
from .spec import Reproduction, RowKey


def pruning_seconds(
    model: nn.Module,
    calibration: CalibrationSet,
    spec: ScoreSpec,
    plan: PlanSpec,
    *,
    progress: Progress | None = None,
) -> tuple[float, PruningPlan]:
    """The seconds that it takes to prune ``model`` as the specs say, and the plan.

    From tokens in memory to a pruned model: the passes over ``calibration``, the scores, the
    plan, the cut, and the compensation where the method has one. Before it the same is done once
    on the first sample, so that what is slow only the first time does not count.
    """
    report = tracked(progress)
    criterion = find_criterion(spec.criterion)
    check_free(model, memory_of(criterion, model, calibration.seq_len))
    first = CalibrationSet.from_tokens(calibration.tokens[:1])
    with report.within(0.0, 0.1):
        _prune(model, first, spec, plan, report)
    _synchronise()
    start = time.perf_counter()
    with report.within(0.1, 1.0):
        chosen = _prune(model, calibration, spec, plan, report)
    _synchronise()
    return time.perf_counter() - start, chosen


def _prune(
    model: nn.Module,
    calibration: CalibrationSet,
    spec: ScoreSpec,
    plan: PlanSpec,
    progress: Tracker,
) -> PruningPlan:
    criterion, statistics = find_criterion(spec.criterion), None
    kind = compensation_for(plan.compensation, criterion)
    batch = {"batch_size": rows_for(model, calibration.seq_len)}
    if criterion.needs == "activations" or kind == "bias":
        with progress.within(0.0, 0.7):
            statistics = collect_statistics(model, calibration, **batch, progress=progress)
    used = statistics if criterion.needs == "activations" else None
    given = {"calibration": calibration, "progress": progress, **dict(spec.options)}
    with progress.within(0.7 if used else 0.0, 1.0):
        scores = score(model, used, spec.criterion, **given)
    chosen = make_plan(scores, **plan.choice)
    pruned = apply_plan(model, chosen)
    moments = None
    if kind == "least-squares":
        found = collect_second_moments(model, calibration, **batch)
        moments = SecondMoments(found.__getitem__)
    compensate(pruned, model, chosen, kind, statistics=statistics, moments=moments)
    return chosen


def forward_seconds(
    model: nn.Module, size: CalibrationSpec, *, progress: Progress | None = None
) -> tuple[float, Profile]:
    """The seconds of a forward pass over ``size.samples`` sequences of ``size.seq_len`` tokens,
    and the profile of a batch.

    The median time of a batch of `BATCH` sequences of random tokens, after a warm-up, times the
    number of batches (a part of one where they do not divide).
    """
    batch = min(BATCH, size.samples)
    found = profile_model(
        model,
        seq_len=size.seq_len,
        batch_size=batch,
        repeats=math.ceil(size.samples / batch),
        progress=progress,
    )
    return found.latency * size.samples / batch, found


def _synchronise() -> None:
    """Wait for what the GPUs still have to do."""
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)
    elif torch.backends.mps.is_available():
        torch.mps.synchronize()


def run_reproduction(pipeline: Pipeline, spec: Reproduction) -> Iterator[Row]:
    """The rows of ``spec``, one by one, read from the run store where they are in it.

    A row that cannot be done comes with its ``error``, and the others go on. Raises InputError
    for a model, a text or a task that cannot be used at all, before the first row where that can
    be known.
    """
    for text in (*spec.texts, spec.calibration):
        text.identity()
    if spec.model.identity()["content"] is None:  # a hub model that is not here yet
        pipeline.model(spec.model)
    if spec.kind == "sweep":
        return _sweep_rows(pipeline, spec)
    measure = {
        "accuracy": _accuracy,
        "seconds": _seconds,
        "compression": _compression,
        "reconstruction": _reconstruction,
    }[spec.kind]
    return _rows(pipeline, spec, measure)


_Measure = Callable[[Pipeline, Reproduction, RowKey], Row]


def _rows(pipeline: Pipeline, spec: Reproduction, measure: _Measure) -> Iterator[Row]:
    keys = spec.rows
    missing = any(
        pipeline.store.find(REPRODUCTIONS, row_identity(spec, key)) is None for key in keys
    )
    if missing and spec.tasks is not None:
        pipeline.check_zero_shot(spec.model, spec.tasks)
    if missing and spec.kind != "compression":  # too little text is refused now, not in hours
        pipeline.calibration(spec.model, spec.calibration)

    def row(key: RowKey) -> Row:
        return stored_row(pipeline.store, spec, key, lambda: measure(pipeline, spec, key))

    return one_by_one(
        pipeline.progress,
        keys,
        row,
        title=spec.label,
        may_fail=lambda key: key.method != DENSE,  # without the dense model there is no row
        refused=lambda key, sentence: Row(key, error=sentence),
        details=True,
    )


def _plan_of(pipeline: Pipeline, spec: Reproduction, key: RowKey) -> PruningPlan | None:
    if key.method == DENSE:
        return None
    return pipeline.plan(spec.score_spec(key), spec.plan_spec(key))


def _gone(plan: PruningPlan | None) -> dict[str, float]:
    """What a plan removes, by the names of `Row`."""
    return {
        "realised": plan.realised if plan else 0.0,
        "realised_total": plan.realised_total if plan else 0.0,
    }


def _accuracy(pipeline: Pipeline, spec: Reproduction, key: RowKey) -> Row:
    """A row of tables 1 to 3."""
    progress = pipeline.progress
    with progress.within(0.0, 0.2):
        plan = _plan_of(pipeline, spec, key)
    recovery = spec.recovery if key.tuned else None
    with progress.within(0.2, 0.5):
        if recovery is not None:
            pipeline.recover(spec.model, plan, recovery)
    cells = {}
    for index, text in enumerate(spec.texts):
        with progress.within(0.5, 0.7), progress.share(index, len(spec.texts)):
            found = pipeline.evaluate(spec.model, text, plan, recovery)
        name = column(text.text, text.window)
        cells[name] = Measured(found["perplexity"], samples=found["tokens"], metric="perplexity")
    if spec.tasks is not None:
        with progress.within(0.7, 1.0):
            cells |= _task_cells(pipeline, spec, plan, recovery)
    return Row(key, cells, **_gone(plan))


def _task_cells(pipeline: Pipeline, spec: Reproduction, plan, recovery) -> dict[str, Measured]:
    """Accuracies in per cent, and their mean."""
    found: list[TaskResult] = []
    for result in pipeline.zero_shot(spec.model, spec.tasks, plan, recovery):
        found.append(result)
    cells = {
        one.task: Measured(100 * one.score, one.samples, one.total, one.score_name) for one in found
    }
    samples, total = (
        sum(getattr(one, name) or 0 for one in found) for name in ("samples", "total")
    )
    of = f"mean of {len(found)} tasks"
    return cells | {"average": Measured(average(found), samples, total, of)}


def _seconds(pipeline: Pipeline, spec: Reproduction, key: RowKey) -> Row:
    """A row of table 4: measured now, on passes of its own."""
    model, _ = pipeline.model(spec.model)
    tokens = pipeline.calibration(spec.model, spec.calibration)
    wanted = spec.score_spec(key), spec.plan_spec(key)
    with pipeline.progress.within(0.25, 1.0) as progress:
        seconds, plan = pruning_seconds(model, tokens, *wanted, progress=progress)
    cell = Measured(seconds, samples=tokens.samples, metric="score, plan and cut")
    return Row(key, {"seconds": cell}, **_gone(plan))


def _compression(pipeline: Pipeline, spec: Reproduction, key: RowKey) -> Row:
    """A row of table 5. What goes is chosen at random: the cost depends on the widths alone."""
    model, _ = pipeline.model(spec.model)
    plan = _plan_of(pipeline, spec, RowKey("random", key.sparsity)) if key.sparsity else None
    if plan is not None:
        model = pipeline.pruned(spec.model, plan)
    calibration = spec.calibration
    with pipeline.progress.within(0.3, 1.0) as progress:
        latency, found = forward_seconds(model, calibration, progress=progress)
    cells = count_cells(found.parameters, found.macs, calibration.seq_len) | {
        "latency_seconds": Measured(latency, calibration.samples, metric="sentences, measured")
    }
    return Row(key, cells, **_gone(plan))


def _reconstruction(pipeline: Pipeline, spec: Reproduction, key: RowKey) -> Row:
    """A line of figure 3: errors block by block, and their means."""
    plan = _plan_of(pipeline, spec, key)
    with pipeline.progress.within(0.4, 1.0):
        found = pipeline.reconstruction(spec.model, {key.method: plan}, spec.texts[0])[key.method]
    series = {
        "accumulated": found.accumulated,
        "local": found.local,
        "dense_mean_abs": found.dense_mean_abs,
    }
    cells = {
        name: Measured(sum(series[name]) / len(series[name]), metric="mean over the blocks")
        for name in ("accumulated", "local")
    }
    return Row(key, cells, series, **_gone(plan))


def _sweep_rows(pipeline: Pipeline, spec: Reproduction) -> Iterator[Row]:
    names = {name: column(t.text, t.window) for name, t in text_names(spec.texts).items()}
    for point in run_sweep(pipeline, spec.sweep):
        row = _row_of(point, names)
        yield row if row.error else stored_row(pipeline.store, spec, row.key, lambda r=row: r)


def _row_of(point: Point, names: dict[str, str]) -> Row:
    """The row of a sweep's point."""
    cells = {names[k]: Measured(v, metric="perplexity") for k, v in point.perplexity.items()}
    return Row(
        RowKey(point.label, point.sparsity, samples=point.samples),
        cells,
        realised=point.realised,
        realised_total=point.realised_total,
        error=point.error,
    )
