"""What a reproduction takes, before it starts: steps with counted MACs, rough time and memory.

The sizes of its models come from their configurations and MACs are counted from the widths alone,
so nothing has to be loaded or run. A forward pass of n tokens in
sequences of w is n / w times `ModelShape.macs` of w; the passes over a calibration set do without
the language-model head; a backward pass counts as two forward ones. Time is the MACs over what
the device does in a short matrix product, of which a model is taken to reach `REACHED`. All of it
is rough.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from ...criteria import find_criterion
from ...data.tasks import KNOWN
from ...data.texts import NAMED, find_text
from ...errors import InputError
from ...evaluation.profiling import measure_speed
from ...models.adapters import Adapter
from ...models.loading import DTYPES, empty_model, load_config, resolve_device
from ...models.shapes import ModelShape
from ...pruning.allocation import allocated_shape
from ...pruning.resolving import BY_WIDTH, for_criterion, resolve
from ...specs import EvaluationSpec, ModelSpec
from ..points import DENSE
from .rows import BATCH, Row, count_cells
from .spec import Reproduction, RowKey, row_keys


def sizes_of(model: ModelSpec) -> ModelShape:
    """The sizes of a model from its configuration alone; raises InputError."""
    return Adapter(empty_model(load_config(model.name))).shape


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


REACHED = 0.6
"""The share of the speed of a large matrix product that a model's forward pass is taken to have."""

CHARACTERS = {"wikitext2": 1_290_590, "ptb": 449_945}
"""The length of the test texts, for where they are not read."""

CHARACTERS_PER_TOKEN = 3.8
REQUESTS = {
    "boolq": (1, 170),
    "piqa": (2, 40),
    "hellaswag": (4, 70),
    "winogrande": (2, 25),
    "arc_easy": (4, 30),
    "arc_challenge": (4, 38),
    "openbookqa": (4, 14),
}
"""Of each task: the passes that a row takes (one for each answer; "yes" and "no" share one), and
about how many tokens a pass has, question and answer."""

_OTHER_REQUEST, _OTHER_ROWS = (4, 60), 1000
_ON_GPU, _IN_GPU_TYPE = 2, ("bfloat16", "float16")


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
        return self.macs / (REACHED * self.speed) if self.speed else None

    def __str__(self) -> str:
        took = duration(self.seconds) if self.seconds is not None else "unknown"
        return (
            f"Roughly {took} and {_size(self.memory)}: {self.macs / 1e12:,.3g} T "
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
        sizes = {task: REQUESTS.get(task, _OTHER_REQUEST)[1] for task in spec.tasks.tasks}
        words = ", ".join(f"{tokens} ({task})" for task, tokens in sizes.items())
        found.append(f"Every answer of a task takes a pass; tokens of a pass: {words}.")
    for method in dict.fromkeys(key.method for key in row_keys(spec) if key.sparsity):
        if (criterion := find_criterion(method)).needs == "gradients":
            found.append(f"Scoring with gradients costs {criterion.passes(shape)} forward passes.")
    if spec.tuned:
        found.append("Fine-tuning costs three forward passes a sample: forward and backward.")
    return [*found, "What the run store already has is not subtracted."]


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} seconds" if seconds >= 2 else "a second"


def _size(memory: int) -> str:
    """Bytes as a person would say them."""
    if memory < 2**30:
        return f"{memory / 2**20:,.0f} MiB"
    return f"{memory / 2**30:,.1f} GiB"


def estimate(spec: Reproduction, shape: ModelShape, *, speed: float | None = None) -> Estimate:
    """What ``spec`` takes for a model of the sizes ``shape``; ``speed`` in MACs a second is
    measured where it is not given. Raises InputError for a device that there is not."""
    device = resolve_device(spec.model.device)
    speed = speed_of(spec.model) if speed is None else speed
    return Estimate(tuple(steps(spec, shape)), speed, peak_memory(spec, shape, device), device)


def speed_of(model: ModelSpec) -> float:
    """The MACs a second of a short matrix product on the model's device, in its type."""
    device = resolve_device(model.device)
    if model.dtype not in DTYPES:
        raise InputError(f"There is no dtype {model.dtype!r}; there are {', '.join(DTYPES)}.")
    automatic = "float32" if device == "cpu" else "float16"
    return measure_speed(
        device, getattr(torch, automatic if model.dtype == "auto" else model.dtype)
    )


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
        forward = samples * _blocks_macs(shape, spec.calibration.seq_len)
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
                run = passes * tokens if is_search else tokens
                yield Work("", f"{what} {name}", run, passes * whole)


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
        count, tokens = _windows(text)
        once, after = (_blocks_macs(one, text.window) for one in (dense, pruned))
        yield Work(name, "reconstruction error", 3 * tokens, count * (once + 2 * after))
    if key.tuned:
        yield _fine_tuning(spec, pruned, name)
    if spec.kind in ("accuracy", "sweep"):
        for text in spec.texts:
            count, tokens = _windows(text)
            what = f"perplexity, {text.text}, window {text.window}"
            yield Work(name, what, tokens, count * pruned.macs(text.window))
    if spec.tasks is not None:
        yield from _task_steps(spec, pruned, name)


def _fine_tuning(spec: Reproduction, shape: ModelShape, name: str) -> Work:
    recovery = spec.recovery
    seen = recovery.samples * recovery.epochs
    updates = recovery.epochs * math.ceil(recovery.samples / recovery.batch_size)
    looks = (updates // recovery.validate_every + 2) * recovery.validation
    samples = 3 * seen + looks
    macs = samples * shape.macs(recovery.seq_len)
    return Work(name, "fine-tuning", (seen + looks) * recovery.seq_len, macs)


def _task_steps(spec: Reproduction, shape: ModelShape, name: str) -> Iterator[Work]:
    limit = spec.tasks.limit
    for task in spec.tasks.tasks:
        passes, length = REQUESTS.get(task, _OTHER_REQUEST)
        rows = KNOWN[task].rows if task in KNOWN else _OTHER_ROWS
        requests = passes * (rows if limit is None else min(rows, limit))
        yield Work(name, f"tasks, {task}", requests * length, requests * shape.macs(length))


def _blocks_macs(shape: ModelShape, seq_len: int) -> int:
    """A forward pass without the language-model head."""
    return shape.macs(seq_len) - seq_len * shape.other_weights


def _windows(text: EvaluationSpec) -> tuple[int, int]:
    """How many whole windows a test text has, and their tokens."""
    count = test_tokens(text) // text.window
    return count, count * text.window


def test_tokens(text: EvaluationSpec) -> int:
    """About how many tokens of a test text are read: from its length in characters."""
    characters = CHARACTERS.get(text.text)
    if characters is None and (text.text == "builtin" or text.text not in NAMED):
        characters = find_text(text.text, purpose="test").size
    if characters is None:  # c4, which is as long as one likes
        characters = 1_000_000
    found = round(characters / CHARACTERS_PER_TOKEN)
    return min(found, text.max_tokens or found)


def peak_memory(spec: Reproduction, shape: ModelShape, device: str) -> int:
    """About how many bytes are in use at most: the dense model, the pruned one beside it (the
    blocks that changed), and the largest of what runs needs beside them."""
    on_cpu = device == "cpu"
    size = 2 if spec.model.dtype in _IN_GPU_TYPE else 4
    if spec.model.dtype == "auto" and not on_cpu:
        size = _ON_GPU
    dense, most = size * shape.parameters, 0
    vocabulary = shape.other_weights // max(shape.hidden, 1)
    for key in row_keys(spec):
        pruned = pruned_shape(spec, shape, key)
        if pruned is None:
            continue
        beside = 0 if key.method == DENSE else size * pruned.block_parameters
        windows = [t.window for t in spec.texts] or [spec.calibration.seq_len]
        if spec.kind == "compression":
            windows = [BATCH * spec.calibration.seq_len]
        most = max(most, beside + max(windows) * vocabulary * (size + 8))
        if key.tuned:
            most = max(most, beside + _training_memory(spec, pruned))
        criterion = find_criterion(key.method) if key.method != DENSE else None
        if criterion is not None and criterion.memory is not None:
            most = max(most, criterion.memory(shape, spec.calibration.seq_len, element_size=size))
    return dense + most


def _training_memory(spec: Reproduction, shape: ModelShape) -> int:
    """What fine-tuning keeps for the way back, for a pass of about 2048 tokens: as
    `criteria.llm_pruner.memory` counts it, without gradients of the weights."""
    seq_len = spec.recovery.seq_len
    at_once = max(1, 2048 // seq_len)
    tokens = seq_len * min(at_once, spec.recovery.batch_size, spec.recovery.samples)
    vocabulary = shape.other_weights // max(shape.hidden, 1)
    width = 4 * vocabulary + sum(
        12 * shape.hidden + 3 * (b.heads + b.kv_heads) * shape.head_dim + 4 * b.channels
        for b in shape.blocks
    )
    return 4 * tokens * width
