"""Measured anew each time, never read from the run store: seconds of pruning, and of a pass."""

import math
import time

import torch
from torch import nn

from ...criteria import find_criterion, score
from ...criteria.statistics import collect_statistics
from ...data.calibration import CalibrationSet
from ...evaluation.profiling import Profile, profile_model
from ...models.adapters import Adapter
from ...progress import Progress, part, silent
from ...pruning.compensation import compensate, resolve_compensation
from ...pruning.moments import SecondMoments, check_free, collect_second_moments
from ...pruning.plan import PruningPlan, make_plan
from ...pruning.slicing import apply_plan
from ...specs import CalibrationSpec, PlanSpec, ScoreSpec

BATCH = 8
"""Sequences in a batch of `forward_seconds`."""


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
    report = progress or silent
    criterion = find_criterion(spec.criterion)
    if criterion.memory is not None:
        check_free(model, criterion.memory(Adapter(model).shape, calibration.seq_len))
    first = CalibrationSet.from_tokens(calibration.tokens[:1])
    _prune(model, first, spec, plan, part(report, 0.0, 0.1))
    _synchronise()
    start = time.perf_counter()
    chosen = _prune(model, calibration, spec, plan, part(report, 0.1, 1.0))
    _synchronise()
    return time.perf_counter() - start, chosen


def _prune(
    model: nn.Module,
    calibration: CalibrationSet,
    spec: ScoreSpec,
    plan: PlanSpec,
    progress: Progress,
) -> PruningPlan:
    criterion, statistics = find_criterion(spec.criterion), None
    kind = resolve_compensation(plan.compensation, spec.criterion)
    batch = {"batch_size": max(1, 4096 // calibration.seq_len)}
    if criterion.needs == "activations" or kind == "bias":
        passed = part(progress, 0.0, 0.7)
        statistics = collect_statistics(model, calibration, **batch, progress=passed)
    used = statistics if criterion.needs == "activations" else None
    rest, options = part(progress, 0.7 if used else 0.0, 1.0), dict(spec.options)
    scores = score(model, used, spec.criterion, calibration=calibration, progress=rest, **options)
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
