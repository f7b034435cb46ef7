"""What a reproduction takes, before it starts: steps with counted MACs, rough time and memory.

The sizes of its models come from their configurations and MACs are counted from the widths alone,
so nothing has to be loaded or run. A forward pass of n tokens in
sequences of w is n / w times `ModelShape.macs` of w; the passes over a calibration set do without
the language-model head; a backward pass counts as two forward ones. Memory is counted by
`evaluation.footprint`, time by `evaluation.workload`. All of it is rough.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from ...criteria import find_criterion
from ...errors import InputError
from ...evaluation.estimating import held_as, sizes_of
from ...evaluation.footprint import (
    Held,
    Stage,
    beside,
    criterion_stage,
    logits_stages,
    training_stage,
)
from ...evaluation.workload import (
    CHARACTERS_PER_TOKEN,
    OTHER_REQUEST,
    REACHED,
    REQUESTS,
    blocks_macs,
    duration,
    said_size,
    seconds_of,
    speed_of,
    task_requests,
    training_samples,
    whole_windows,
)
from ...models.devices import resolve_device
from ...models.shapes import ModelShape
from ...pruning.allocation import allocated_shape
from ...pruning.resolving import BY_WIDTH, for_criterion, resolve
from ..points import DENSE
from .rows import BATCH, Row, count_cells
from .spec import Reproduction, RowKey, row_keys

__all__ = ["sizes_of", "speed_of"]


def pruned_shape(spec: Reproduction, shape: ModelShape, key: RowKey) -> ModelShape | None:
    """The sizes of the row's model, as if all its blocks were given the same widths; None where
    no plan can have them."""
    if key.method == DENSE:
        return shape
    criterion = find_criterion(key.method)
    plan = for_criterion(spec.plan_spec(key), criterion)
    by_width = plan.allocation if plan.allocation in BY_WIDTH else "uniform"
    try:
        resolved = resolve(replace(plan, propagation="dense"), criterion, shape)
        return allocated_shape(shape, replace(resolved, allocation=by_width))
    except InputError:
        return None


def counted_rows(spec: Reproduction, shape: ModelShape) -> list[Row]:
    """Of a table of counts, the rows as far as they can be had without running anything."""
    rows, seq_len = [], spec.calibration.seq_len
    for key in spec.rows if spec.kind == "compression" else ():
        pruned = pruned_shape(spec, shape, key)
        if pruned is not None:
            rows.append(Row(key, count_cells(pruned.parameters, pruned.macs(seq_len), seq_len)))
    return rows


@dataclass(frozen=True)
class Work:
    """One piece of work: of which row (empty: of several), what, on how many tokens, in how many
    multiply-accumulates."""

    row: str
    what: str
    tokens: int
    macs: int


@dataclass(frozen=True)
class Estimate:
    """The steps, the speed in MACs a second (0: not measured), and the peak memory in bytes."""

    steps: tuple[Work, ...]
    speed: float
    memory: int
    device: str

    @property
    def macs(self) -> int:
        """The MACs of all steps."""
        return sum(step.macs for step in self.steps)

    @property
    def seconds(self) -> float | None:
        """Rough seconds of all steps; None where the speed was not measured."""
        return seconds_of(self.macs, self.speed) if self.speed else None

    def __str__(self) -> str:
        took = duration(self.seconds) if self.seconds is not None else "unknown"
        return (
            f"Roughly {took} and {said_size(self.memory)}: {self.macs / 1e12:,.3g} T "
            f"multiply-accumulates in {len(self.steps)} steps; {self.device} does "
            f"{self.speed / 1e9:,.0f} G a second in a matrix product, of which a model is taken to "
            f"reach {REACHED:.0%}."
        )


def assumptions(spec: Reproduction, shape: ModelShape) -> list[str]:
    """What the counts of ``spec`` take for granted, in sentences."""
    found = []
    if any(text.max_tokens is None for text in spec.texts):
        found.append(f"A test text has a token every {CHARACTERS_PER_TOKEN} characters.")
    if spec.tasks is not None:
        sizes = {task: REQUESTS.get(task, OTHER_REQUEST)[1] for task in spec.tasks.tasks}
        words = ", ".join(f"{tokens} ({task})" for task, tokens in sizes.items())
        found.append(f"Every answer of a task takes a pass; tokens of a pass: {words}.")
    for method in dict.fromkeys(key.method for key in row_keys(spec) if key.sparsity):
        if (criterion := find_criterion(method)).needs == "gradients":
            found.append(f"Scoring with gradients costs {criterion.passes(shape)} forward passes.")
    if spec.tuned:
        found.append("Fine-tuning costs three forward passes a sample: forward and backward.")
    return [*found, "What the run store already has is not subtracted."]


def estimate(spec: Reproduction, shape: ModelShape, *, speed: float | None = None) -> Estimate:
    """What ``spec`` takes for a model of the sizes ``shape``; ``speed`` in MACs a second is
    measured where it is not given. Raises InputError for a device that there is not."""
    device = resolve_device(spec.model.device)
    speed = speed_of(spec.model) if speed is None else speed
    return Estimate(tuple(steps(spec, shape)), speed, peak_memory(spec, shape), device)


def steps(spec: Reproduction, shape: ModelShape) -> Iterator[Work]:
    """The work of a reproduction in its order; rows that cannot be planned are left out."""
    keys = row_keys(spec)
    if spec.kind != "compression":
        yield from _scoring(spec, shape, keys)
    for key in keys:
        pruned = pruned_shape(spec, shape, key)
        if pruned is not None:
            yield from _row_steps(spec, shape, pruned, key)


def _scoring(spec: Reproduction, shape: ModelShape, keys: list[RowKey]) -> Iterator[Work]:
    """The passes over the calibration set: one for all that read activations, in table 4 one for
    each method; one for each size in a figure of sizes."""
    methods = list(dict.fromkeys(key.method for key in keys if key.method != DENSE))
    if not methods:
        return
    for samples in spec.sizes or (spec.calibration.samples,):
        tokens = samples * spec.calibration.seq_len
        forward = samples * blocks_macs(shape, spec.calibration.seq_len)
        whole = samples * shape.macs(spec.calibration.seq_len)
        reading = [m for m in methods if _reads_activations(m)]
        shared = [", ".join(reading)] if reading and spec.kind != "seconds" else reading
        for name in shared:
            yield Work("", f"statistics for {name}", tokens, forward)
        for name in methods:
            criterion = find_criterion(name)
            passes, is_search = criterion.passes(shape), criterion.needs == "search"
            if passes:
                what = "search of" if is_search else f"{criterion.needs} for"
                read = criterion.read_tokens({}, tokens)
                run = passes * read if is_search else tokens
                yield Work("", f"{what} {name}", run, passes * whole * read // tokens)


def _reads_activations(method: str) -> bool:
    criterion = find_criterion(method)
    return criterion.needs == "activations" or criterion.compensation == "bias"


def _row_steps(
    spec: Reproduction, dense: ModelShape, pruned: ModelShape, key: RowKey
) -> Iterator[Work]:
    name, calibration = spec.label(key), spec.calibration
    if spec.kind == "compression":
        batch = min(BATCH, calibration.samples)
        count = batch * (1 + math.ceil(calibration.samples / batch))
        macs = count * pruned.macs(calibration.seq_len)
        yield Work(name, "latency", count * calibration.seq_len, macs)
    if spec.kind == "reconstruction":
        text = spec.texts[0]
        count, tokens = whole_windows(text)
        once, after = (blocks_macs(one, text.window) for one in (dense, pruned))
        yield Work(name, "reconstruction error", 3 * tokens, count * (once + 2 * after))
    if key.tuned:
        yield _fine_tuning(spec, pruned, name)
    if spec.kind in ("accuracy", "sweep"):
        for text in spec.texts:
            count, tokens = whole_windows(text)
            what = f"perplexity, {text.text}, window {text.window}"
            yield Work(name, what, tokens, count * pruned.macs(text.window))
    if spec.tasks is not None:
        yield from _task_steps(spec, pruned, name)


def _fine_tuning(spec: Reproduction, shape: ModelShape, name: str) -> Work:
    recovery = spec.recovery
    passes, seen = training_samples(recovery)
    macs = passes * shape.macs(recovery.seq_len)
    return Work(name, "fine-tuning", seen * recovery.seq_len, macs)


def _task_steps(spec: Reproduction, shape: ModelShape, name: str) -> Iterator[Work]:
    for task in spec.tasks.tasks:
        requests, length = task_requests(spec.tasks, task)
        yield Work(name, f"tasks, {task}", requests * length, requests * shape.macs(length))


def peak_memory(spec: Reproduction, shape: ModelShape) -> int:
    """About how many bytes are in use at most: the dense model, the pruned one beside it (the
    blocks that changed), and the largest of what runs needs beside them."""
    held, most = held_as(spec.model, shape), 0
    for key in row_keys(spec):
        pruned = pruned_shape(spec, shape, key)
        if pruned is not None:
            stages = list(_stages(spec, held, key, pruned))
            made = stages if key.method == DENSE else beside(held, pruned, stages)
            if key.method != DENSE:
                found = find_criterion(key.method)
                options = found.resolve({})
                made = [*made, *criterion_stage(held, found, spec.calibration.seq_len, options)]
            most = max([most, *(stage.bytes for stage in made)])
    return most


def _stages(spec: Reproduction, held: Held, key: RowKey, pruned: ModelShape) -> Iterator[Stage]:
    """What one row runs on its model."""
    windows = [(text.window, 1) for text in spec.texts] or [(spec.calibration.seq_len, 1)]
    if spec.kind == "compression":
        windows = [(spec.calibration.seq_len, BATCH)]
    for window, rows in windows:
        yield from logits_stages(held, window, 2 * rows, rows=rows)
    if key.tuned:
        yield training_stage(held, pruned, spec.recovery)
