"""What a command takes, before it starts: memory, disk and rough time, from its specs alone.

The sizes come from the model's configuration; no weights are loaded or fetched. What the run store
already has is not subtracted. Where widths depend on scores, all blocks are taken to get the same.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch

from ..criteria import Criterion, find_criterion
from ..criteria.moments import second_moment_bytes
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.devices import resolve_device
from ..models.identity import DEMO
from ..models.loading import check_save_dtype, empty_model, load_config
from ..models.memory import AUTO, free_on
from ..models.shapes import ModelShape
from ..models.streamed_loading import budget_of, fits
from ..pruning.allocation import allocated_shape
from ..pruning.resolving import BY_WIDTH, for_criterion, resolve
from ..specs import (
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
    ZeroShotSpec,
)
from . import footprint
from .footprint import Held, Stage
from .metrics import find_metric
from .workload import (
    blocks_macs,
    duration,
    said_size,
    seconds_of,
    task_requests,
    training_samples,
    whole_windows,
)

_HALVES, _PACKED = ("f16", "bf16"), ("q8_0",)
"""What weights are quantised to that is held in 2 bytes a number, and in 4."""
TASKS = ("score", "prune", "evaluate", "reconstruct", "sweep", "zero-shot", "recover")
"""The commands that there are estimates of."""


@dataclass(frozen=True)
class Job:
    """One of `TASKS` with its specs. ``plan`` is None where only the dense model is meant.

    ``criteria``: of a sweep or of reconstruction errors, by name, where they are not that of
    ``score`` alone; ``points``: how many pruned models a sweep measures with each. ``save_dtype``
    and ``quantize`` are those of an export, ``gradient_checkpointing`` that of `recover`.
    """

    task: str
    score: ScoreSpec = field(default_factory=ScoreSpec)
    plan: PlanSpec | None = None
    text: EvaluationSpec = field(default_factory=EvaluationSpec)
    tasks: ZeroShotSpec = field(default_factory=ZeroShotSpec)
    recovery: RecoverySpec = field(default_factory=RecoverySpec)
    criteria: tuple[str, ...] = ()
    points: int = 1
    save_dtype: str = "auto"
    quantize: str = "auto"
    gradient_checkpointing: bool | None = None

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            known = ", ".join(TASKS)
            raise InputError(f"There is no estimate of {self.task!r}; there are {known}.")
        check_save_dtype(self.save_dtype)

    @property
    def chosen(self) -> tuple[Criterion, ...]:
        """The criteria themselves."""
        return tuple(map(find_criterion, self.criteria or (self.score.criterion,)))


@dataclass(frozen=True)
class Estimate:
    """What a job takes: its ``stages``, multiply-accumulates, and bytes on the ``disk``; of the
    model as it is ``held`` on ``device``, where ``free`` bytes can be had. ``speed`` in MACs a
    second is None where it was not measured."""

    stages: tuple[Stage, ...]
    macs: int
    disk: int
    held: Held
    device: str
    free: int
    speed: float | None = None

    @cached_property
    def peak(self) -> Stage:
        """The stage that takes most."""
        return max(self.stages, key=lambda stage: stage.bytes)

    @property
    def host(self) -> int:
        """The bytes of host memory, those of the peak where the model runs on the CPU."""
        return self.peak.bytes if self.held.on_cpu else sum(self.held.host.values())

    @property
    def seconds(self) -> float | None:
        """Rough seconds; None where the speed was not measured."""
        return None if self.speed is None else seconds_of(self.macs, self.speed)

    @property
    def fits(self) -> bool:
        """Whether as much is free."""
        return self.peak.bytes <= self.free

    def __str__(self) -> str:
        where = "memory" if self.held.on_cpu else f"memory on {self.device}"
        parts = [f"{said_size(self.peak.bytes)} of {where} at most ({self.peak.name})"]
        if not self.held.on_cpu:
            parts.append(f"{said_size(self.host)} of host memory")
        if self.disk:
            parts.append(f"{said_size(self.disk)} on the disk")
        if self.seconds is not None:
            parts.append(f"roughly {duration(self.seconds)}")
        how = "" if self.held.budget is None else ", one block at a time"
        return f"Takes about {', '.join(parts)}{how}."


def sizes_of(model: ModelSpec) -> ModelShape:
    """The sizes of a model from its configuration alone; raises InputError."""
    return Adapter(empty_model(load_config(model.name))).shape


def held_as(model: ModelSpec, shape: ModelShape) -> Held:
    """How a model of these sizes is held where it runs."""
    device = resolve_device(model.device)
    stored = torch.float32
    if model.name != DEMO:  # which is converted to float32
        stored = getattr(load_config(model.name), "dtype", None) or torch.float32
    automatic = torch.float32 if device == "cpu" else stored
    dtype = automatic if model.dtype == AUTO else getattr(torch, model.dtype)
    budget = budget_of(model.memory, device)
    whole = fits(shape.parameters * dtype.itemsize, budget)
    sizes = {"element": dtype.itemsize, "stored": stored.itemsize}
    return Held(shape, **sizes, on_cpu=device == "cpu", budget=None if whole else budget)


def estimate(job: Job, shape: ModelShape | None = None, *, speed: float | None = None) -> Estimate:
    """What ``job`` takes; ``shape`` are the sizes of its model where they are known already, and
    ``speed`` what `workload.speed_of` measured. Raises InputError."""
    model = job.score.model
    shape = shape or sizes_of(model)
    held = held_as(model, shape)
    kept = _kept(job, shape)
    stages = list(_stages(job, held, kept))
    keeps = held.on_cpu and held.budget is None
    device = resolve_device(model.device)
    return Estimate(
        stages=tuple(footprint.with_kept(stages) if keeps else stages),
        macs=_macs(job, shape, kept),
        disk=_disk(job, held, kept),
        held=held,
        device=device,
        free=free_on(device),
        speed=speed,
    )


def check(job: Job, found: Estimate) -> None:
    """Raise InputError where what was ``found`` of ``job`` is not free, with what would fit."""
    if found.fits:
        return
    ways = [said for said, other in _other_ways(job) if estimate(other, found.held.shape).fits]
    instead = f"it would fit with {', or with '.join(ways)}" if ways else "use a smaller model"
    raise InputError(
        f"This takes about {said_size(found.peak.bytes)} of memory on {found.device} "
        f"({found.peak.name}), and {said_size(found.free)} are free; {instead}."
    )


def _other_ways(job: Job) -> Iterator[tuple[str, Job]]:
    """Settings that take less, in words, and the job with them."""
    model, calibration = job.score.model, job.score.calibration

    def with_model(**changes: str) -> Job:
        return replace(job, score=replace(job.score, model=replace(model, **changes)))

    half = f"{max(1, free_on(resolve_device(model.device)) // 2**21)}MiB"
    yield f"--memory {half} (one block at a time)", with_model(memory=half)
    if model.dtype in (AUTO, "float32"):
        yield "--dtype bfloat16", with_model(dtype="bfloat16")
    for name, flag in (("samples", "--samples"), ("seq_len", "--seq-len")):
        if (less := getattr(calibration, name) // 4) >= 2:
            smaller = replace(calibration, **{name: less})
            yield f"{flag} {less}", replace(job, score=replace(job.score, calibration=smaller))
    if (window := job.text.window // 4) >= 2:
        yield f"--window {window}", replace(job, text=replace(job.text, window=window))


def _kept(job: Job, shape: ModelShape) -> tuple[tuple[Criterion, PlanSpec, ModelShape], ...]:
    """The plan of each criterion, nothing at "auto", and the sizes that it leaves."""
    found = []
    for criterion in job.chosen if job.plan is not None else ():
        plan = for_criterion(replace(job.plan, propagation="dense"), criterion)
        resolved = resolve(plan, criterion, shape)
        if resolved.allocation not in BY_WIDTH:
            resolved = replace(resolved, allocation="uniform")
        found.append((criterion, plan, allocated_shape(shape, resolved)))
    return tuple(found)


def _stages(job: Job, held: Held, kept: tuple) -> Iterator[Stage]:
    """All of a job, in its order."""
    calibration = job.score.calibration
    needed = job.task in ("score", "prune", "reconstruct") or job.plan is not None
    yield footprint.loading_stage(held)
    for criterion in job.chosen if needed else ():
        options = dict(job.score.options) if criterion.name == job.score.criterion else {}
        options = criterion.resolve(options)
        if criterion.needs == "activations" or criterion.compensation == "bias":
            yield from footprint.statistics_stages(held, calibration)
        if criterion.curves is not None:
            yield from footprint.moments_stages(held, calibration)
        yield from footprint.criterion_stage(held, criterion, calibration.seq_len, options)
        yield footprint.scores_stage(held)
    if job.task == "score":
        return
    if job.task not in ("reconstruct", "recover"):
        yield from _measuring(job, held, compared=False)
    for _, plan, pruned in kept:
        yield from footprint.beside(held, pruned, _with_pruned(job, held, plan, pruned))


def _with_pruned(job: Job, held: Held, plan: PlanSpec, pruned: ModelShape) -> Iterator[Stage]:
    """What is done while a pruned model is there."""
    calibration = job.score.calibration
    if plan.compensation == "least-squares":
        yield from footprint.moments_stages(held, calibration)
        yield footprint.refit_stage(held, calibration, pruned)
    if job.task == "reconstruct":
        models = 1 + len(job.chosen)
        yield footprint.reconstruction_stage(
            held, job.text.window, whole_windows(job.text)[0], models
        )
    elif job.task == "recover":
        yield _training(job, held, pruned)
    else:
        compared = any(find_metric(name).needs_dense for name in job.text.metrics)
        yield from _measuring(job, held, compared=compared)
    if job.task == "prune":
        written = _written(job, held)
        yield from footprint.export_stages(held, pruned, written, rounded=job.quantize in _PACKED)


def _training(job: Job, held: Held, pruned: ModelShape) -> Stage:
    """Training, with gradient checkpointing where that is asked for, or nothing is and it does not
    fit without."""
    asked = job.gradient_checkpointing
    stage = footprint.training_stage(held, pruned, job.recovery, checkpointed=bool(asked))
    if asked is None and stage.bytes > free_on(resolve_device(job.score.model.device)):
        stage = footprint.training_stage(held, pruned, job.recovery, checkpointed=True)
    return stage


def _written(job: Job, held: Held) -> int:
    """The bytes of a number in an export (see `number_types.type_to_write`)."""
    if job.quantize != AUTO:
        return 2 if job.quantize in _HALVES else footprint.WIDE
    if job.save_dtype == AUTO:
        return min(held.element, held.stored)
    return getattr(torch, job.save_dtype).itemsize


def _measuring(job: Job, held: Held, *, compared: bool) -> Iterator[Stage]:
    """Measuring one model: tasks, or figures of a text; ``compared`` with the dense model."""
    if job.task == "zero-shot":
        longest = max(task_requests(job.tasks, task)[1] for task in job.tasks.tasks)
        rows = job.tasks.batch_size
        how = {"rows": rows, "at_once": rows * longest}
        yield from footprint.logits_stages(held, longest, 2 * rows, **how)
    else:
        window, count = job.text.window, max(1, whole_windows(job.text)[0])
        rows = min(held.rows(window, logits=True), count)
        yield from footprint.logits_stages(held, window, count, rows=rows, compared=compared)


def _macs(job: Job, shape: ModelShape, kept: tuple) -> int:
    """The multiply-accumulates of a job."""
    calibration, total = job.score.calibration, 0
    forward = calibration.samples * blocks_macs(shape, calibration.seq_len)
    needed = job.task in ("score", "prune", "reconstruct") or job.plan is not None
    chosen = job.chosen if needed else ()
    if any(one.needs == "activations" or one.compensation == "bias" for one in chosen):
        total += forward
    tokens = calibration.samples * calibration.seq_len
    whole = calibration.samples * shape.macs(calibration.seq_len)
    for one in chosen:
        options = dict(job.score.options) if one.name == job.score.criterion else {}
        total += one.passes(shape) * whole * one.read_tokens(options, tokens) // tokens
    if any(plan.compensation == "least-squares" for _, plan, _ in kept):
        total += forward
    measured = [] if job.task in ("score", "reconstruct", "recover") else [shape]
    if job.task not in ("score", "reconstruct", "recover"):
        measured += [pruned for _, _, pruned in kept] * job.points
    total += sum(_measured_macs(job, one) for one in measured)
    for _, _, pruned in kept:
        if job.task == "recover":
            total += training_samples(job.recovery)[0] * pruned.macs(job.recovery.seq_len)
        if job.task == "reconstruct":
            after = blocks_macs(pruned, job.text.window)
            total += whole_windows(job.text)[0] * (blocks_macs(shape, job.text.window) + 2 * after)
    return total


def _measured_macs(job: Job, shape: ModelShape) -> int:
    if job.task != "zero-shot":
        return whole_windows(job.text)[0] * shape.macs(job.text.window)
    requests = (task_requests(job.tasks, task) for task in job.tasks.tasks)
    return sum(count * shape.macs(length) for count, length in requests)


def _disk(job: Job, held: Held, kept: tuple) -> int:
    """Bytes on the disk: second moments, hidden states that have no room, and an export."""
    calibration = job.score.calibration
    tokens = calibration.samples * calibration.seq_len
    total = held.hidden_on_disk(tokens) if job.task in ("score", "prune") else 0
    needed = job.task in ("score", "prune", "reconstruct") or job.plan is not None
    by_curves = needed and any(one.curves is not None for one in job.chosen)
    if by_curves or any(plan.compensation == "least-squares" for _, plan, _ in kept):
        total += sum(second_moment_bytes(held.shape, tokens))
    if job.task == "prune":
        total += sum(_written(job, held) * pruned.parameters for _, _, pruned in kept)
    return total
