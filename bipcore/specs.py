"""Frozen specs: what a result is a pure function of. Plain data, with defaults.

`identity` turns a spec into what the run store is keyed by: where a spec names a file or a
folder, its content counts and not only its name.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .data.texts import find_text
from .errors import InputError
from .hub import cached_commit
from .models.loading import DEMO, demo_identity, resolve_device

_CONTENT = (".json", ".safetensors", ".model", ".txt", ".jinja")


@dataclass(frozen=True)
class ModelSpec:
    """Which model, where it runs and in which type (see `models.load_model`)."""

    name: str = DEMO
    device: str = "auto"
    dtype: str = "auto"

    def identity(self) -> dict:
        """The model's content and number type; the device does not count.

        A hub model that is not in the local cache yet has no known content.
        """
        on_cpu = resolve_device(self.device) == "cpu"
        dtype = "float32" if self.dtype == "auto" and on_cpu else self.dtype
        return {"name": self.name, "content": _model_content(self.name), "dtype": dtype}


def _model_content(name: str) -> Any:
    if name == DEMO:
        return demo_identity()
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir():
            return cached_commit(name)
    except OSError:
        return None
    files = sorted(file for file in folder.iterdir() if file.suffix in _CONTENT)
    stats = [(file, file.stat()) for file in files]
    return [[file.name, stat.st_size, stat.st_mtime_ns] for file, stat in stats]


@dataclass(frozen=True)
class CalibrationSpec:
    """Which text calibrates: ``samples`` of ``seq_len`` tokens (see `load_calibration`)."""

    source: str = "builtin"
    samples: int = 32
    seq_len: int = 256
    seed: int = 0

    def identity(self) -> dict:
        """The spec with the text's content; raises InputError where there is no such text."""
        return asdict(self) | {"content": find_text(self.source, purpose="calibration").identity}

    def __str__(self) -> str:
        return f"{self.source}, {self.samples} × {self.seq_len} tokens, seed {self.seed}"


@dataclass(frozen=True)
class ScoreSpec:
    """Scores of ``model`` by ``criterion``; ``options`` are (name, value) pairs of its own."""

    model: ModelSpec = field(default_factory=ModelSpec)
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    criterion: str = "llm-bip"
    options: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True)
class PlanSpec:
    """How much to cut, how it is shared out (see `make_plan`), and what makes up for it.

    ``compensation`` (see `compensate`): "auto" is what the criterion's authors use.
    ``propagation``: "dense" scores every block on what enters it in the dense model; "pruned"
    on the output of the blocks already pruned. ``source``: a plan file, or the name of a stored
    plan, to take as it is; the other settings do not count then.
    """

    sparsity: float = 0.2
    unit: str = "auto"
    allocation: str = "auto"
    protect_first: int = 0
    protect_last: int = 0
    round_to: int = 1
    floor: float = 0.0
    compensation: str = "auto"
    propagation: str = "dense"
    source: str = ""

    @property
    def choice(self) -> dict[str, Any]:
        """The settings of `make_plan`."""
        others = ("compensation", "propagation", "source")
        return {name: value for name, value in asdict(self).items() if name not in others}


@dataclass(frozen=True)
class EvaluationSpec:
    """Perplexity of the test text ``text``, its first ``max_tokens`` tokens (None: all)."""

    text: str = "builtin"
    window: int = 512
    max_tokens: int | None = 4096

    def identity(self) -> dict:
        """The spec with the text's content; raises InputError where there is no such text."""
        return asdict(self) | {"content": find_text(self.text, purpose="test").identity}


SEVEN = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
"""The common-sense tasks of the paper's tables, by their names in lm_eval."""


@dataclass(frozen=True)
class ZeroShotSpec:
    """Which tasks, with how many examples in the prompt, on how many rows of each (None: all).

    ``batch_size`` is how many requests run at once: it changes speed and memory, not the result.
    """

    tasks: tuple[str, ...] = SEVEN
    num_fewshot: int = 0
    limit: int | None = None
    batch_size: int = 8


@dataclass(frozen=True)
class RecoverySpec:
    """How a pruned model is fine-tuned with LoRA; the defaults are the paper's.

    ``samples`` of ``seq_len`` tokens from the calibration text ``source``, drawn with ``seed``,
    seen ``epochs`` times in batches of ``batch_size`` by AdamW, the learning rate falling from
    ``learning_rate`` as a cosine after a linear rise over the share ``warmup`` of the steps.
    ``targets``: "all", "attention" or "ffn" linear layers of the blocks, or their own names
    ("q_proj"). ``validation`` more samples are held out; with ``patience`` > 0 training stops
    when their loss has not improved in so many looks, ``validate_every`` steps apart.
    """

    source: str = "c4"
    samples: int = 20_000
    seq_len: int = 512
    seed: int = 0
    rank: int = 8
    alpha: float = 16.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("all",)
    learning_rate: float = 1e-4
    batch_size: int = 128
    epochs: int = 1
    warmup: float = 0.0
    weight_decay: float = 0.0
    validation: int = 32
    validate_every: int = 10
    patience: int = 0

    @property
    def text(self) -> CalibrationSpec:
        """The samples to train on and those held out, in one draw."""
        return CalibrationSpec(self.source, self.samples + self.validation, self.seq_len, self.seed)

    def identity(self) -> dict:
        """The spec with the text's content; raises InputError where there is no such text."""
        return asdict(self) | {"content": self.text.identity()["content"]}


@dataclass(frozen=True)
class Preset:
    """``values``: fields of `ScoreSpec` and `PlanSpec` by name; those not named stay free."""

    name: str
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "paper",
            "As each criterion's authors do it: for LLM-BIP no block protected, nothing "
            "compensated.",
            {
                "allocation": "auto",
                "protect_first": 0,
                "protect_last": 0,
                "compensation": "auto",
                "propagation": "dense",
            },
        ),
        Preset(
            "recommended",
            "What measured best here: FLAP's scores, the same widths in every block, the first "
            "block protected, least squares. Demo model, C4 calibration: WikiText-2 perplexity "
            "37.9 at 20 % and 103.5 at 50 % (dense 22.9), against 46.7 and 586 for the best of "
            "the criteria as published.",
            {
                "criterion": "flap",
                "allocation": "uniform",
                "protect_first": 1,
                "protect_last": 0,
                "compensation": "least-squares",
                "propagation": "dense",
            },
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset called ``name``; raises InputError with the known names."""
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]


_KINDS = {int: "a whole number", float: "a number", str: "a word"}


def parse_list(text: str, kind: Callable[[str], Any], name: str) -> tuple:
    """``text`` as values of type ``kind`` (str, int or float); nothing gives an empty list.

    Raises InputError, with ``name`` as what the list is of, for what is no such value.
    """
    if not text.strip():
        return ()
    values = []
    for word in text.split(","):
        try:
            if not word.strip():
                raise ValueError
            values.append(kind(word.strip()))
        except ValueError:
            raise InputError(
                f"In the list of {name}, {text!r}, {word.strip()!r} is not {_KINDS[kind]}."
            ) from None
    return tuple(values)


def join_list(values: Iterable[Any]) -> str:
    """What `parse_list` reads."""
    return ",".join(str(value) for value in values)
