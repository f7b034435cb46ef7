"""How long work on a model takes, roughly, from counts alone.

The time is multiply-accumulates (MACs) over what the device does in a short matrix product, of
which a model is taken to reach `REACHED`.
"""

import functools
import math

import torch

from ..data.tasks import KNOWN
from ..data.texts import NAMED, find_text
from ..models.devices import resolve_device
from ..models.shapes import ModelShape
from ..specs import EvaluationSpec, ModelSpec, RecoverySpec, ZeroShotSpec
from .profiling import measure_speed

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

OTHER_REQUEST, _OTHER_ROWS = (4, 60), 1000


def duration(seconds: float) -> str:
    """Seconds as a person would say them."""
    for unit, size in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} seconds" if seconds >= 2 else "a second"


def said_size(memory: int) -> str:
    """Bytes as a person would say them."""
    if memory < 2**30:
        return f"{memory / 2**20:,.0f} MiB"
    return f"{memory / 2**30:,.1f} GiB"


def speed_of(model: ModelSpec) -> float:
    """The MACs a second of a short matrix product on the model's device, in its type; measured
    once in a process. Raises InputError for a device that there is not."""
    device = resolve_device(model.device)
    automatic = "float32" if device == "cpu" else "float16"
    return _measured(device, automatic if model.dtype == "auto" else model.dtype)


@functools.lru_cache(maxsize=16)
def _measured(device: str, dtype: str) -> float:
    return measure_speed(device, getattr(torch, dtype))


def seconds_of(macs: int, speed: float) -> float:
    """Rough seconds of so many MACs at a ``speed`` that `speed_of` measured."""
    return macs / (REACHED * speed)


def blocks_macs(shape: ModelShape, seq_len: int) -> int:
    """A forward pass without the language-model head."""
    return shape.macs(seq_len) - seq_len * shape.other_weights


def whole_windows(text: EvaluationSpec) -> tuple[int, int]:
    """How many whole windows a test text has, and their tokens."""
    count = tokens_to_read(text) // text.window
    return count, count * text.window


def tokens_to_read(text: EvaluationSpec) -> int:
    """About how many tokens of a test text are read: from its length in characters."""
    characters = CHARACTERS.get(text.text)
    if characters is None and (text.text == "builtin" or text.text not in NAMED):
        characters = find_text(text.text, purpose="test").size
    if characters is None:  # c4, which is as long as one likes
        characters = 1_000_000
    found = round(characters / CHARACTERS_PER_TOKEN)
    return min(found, text.max_tokens or found)


def training_samples(recovery: RecoverySpec) -> tuple[int, int]:
    """The forward passes of one sample that fine-tuning costs, three for each that is seen and one
    for each that is held out at every look; and the samples that pass."""
    seen = recovery.samples * recovery.epochs
    updates = recovery.epochs * math.ceil(recovery.samples / recovery.batch_size)
    looks = (updates // recovery.validate_every + 2) * recovery.validation
    return 3 * seen + looks, seen + looks


def task_requests(tasks: ZeroShotSpec, task: str) -> tuple[int, int]:
    """About how many passes a task takes, and the tokens of each."""
    passes, length = REQUESTS.get(task, OTHER_REQUEST)
    rows = KNOWN[task].rows if task in KNOWN else _OTHER_ROWS
    return passes * (rows if tasks.limit is None else min(rows, tasks.limit)), length
