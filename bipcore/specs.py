"""Frozen specs: what a result is a pure function of. Plain data, with defaults.

Each field says what it may be (see `settings`): a spec that could not be used cannot be made.
`identity` turns a spec into what the run store is keyed by: where a spec names a file or a
folder, its content counts and not only its name.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from .data.texts import NAMED, find_text
from .errors import LARGEST_SEED, InputError
from .models.identity import DEMO, known_content
from .models.loading import DTYPES, resolve_device
from .settings import Checked, setting

_TEXTS = f"{', '.join(NAMED)}, or a"


@dataclass(frozen=True)
class ModelSpec(Checked):
    """Which model, where it runs and in which type (see `models.loading.load_model`)."""

    name: str = setting(
        DEMO,
        "model",
        "demo, a model folder, or a hub id (owner/name).",
        label="Model",
        hint="demo, a folder on the machine that runs this app, or a hub id (owner/name).",
    )
    device: str = setting("auto", "device", "auto, cpu, cuda, cuda:1, ...")
    dtype: str = setting(
        "auto", "dtype", "auto, float32, bfloat16 or float16.", label="Type", choices=DTYPES
    )

    def identity(self) -> dict:
        """The model's content and number type, and the name that results of it are shown under;
        the device does not count.

        A hub model that is not in the local cache yet has no known content.
        """
        on_cpu = resolve_device(self.device) == "cpu"
        dtype = "float32" if self.dtype == "auto" and on_cpu else self.dtype
        return {"name": self.name, "content": known_content(self.name), "dtype": dtype}


@dataclass(frozen=True)
class CalibrationSpec(Checked):
    """Which text calibrates: ``samples`` of ``seq_len`` tokens (see `load_calibration`)."""

    source: str = setting(
        "builtin",
        "calibration text",
        f"{_TEXTS} .txt or .jsonl file.",
        label="Calibration text",
        hint="builtin is Python's language reference; or type the path of a text or JSONL "
        "file. The others come from the folder BIPCORE_DATA, else from the hub.",
        offered=NAMED,
        flag="--calibration",
    )
    samples: int = setting(
        32, "number of calibration samples", "Calibration samples.", label="Samples", least=1
    )
    seq_len: int = setting(
        256,
        "length of a calibration sample",
        "Tokens in a calibration sample.",
        label="Tokens each",
        least=2,
    )
    seed: int = setting(
        0,
        "seed",
        "Seed that draws the calibration samples.",
        label="Seed",
        least=0,
        most=LARGEST_SEED,
    )

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
    criterion: str = setting(
        "llm-bip", "criterion", "How heads and channels are scored.", label="Criterion"
    )
    options: tuple[tuple[str, Any], ...] = ()


class UNITS:
    """The units of attention that a plan can remove."""

    HEAD = "head"
    QUERY_HEAD = "query-head"
    KV_GROUP = "kv-group"
    NONE = "none"
    ALL = ("auto", HEAD, QUERY_HEAD, KV_GROUP, NONE)


ALLOCATIONS = ("auto", "uniform", "paper", "global", "sublayer")
COMPENSATIONS = ("auto", "none", "bias", "least-squares")
PROPAGATIONS = ("dense", "pruned")


@dataclass(frozen=True)
class PlanSpec(Checked):
    """How much to cut, how it is shared out (see `make_plan`), and what makes up for it.

    ``compensation`` (see `compensate`): "auto" is what the criterion's authors use.
    ``propagation``: "dense" scores every block on what enters it in the dense model; "pruned"
    on the output of the blocks already pruned. ``source``: a plan file, or the name of a stored
    plan, to take as it is; the other settings do not count then.
    """

    sparsity: float = setting(
        0.2,
        "sparsity",
        "Share of the blocks' parameters to remove, 0 to below 1.",
        label="Sparsity, % of the blocks' parameters",
        offered=(0.0, 0.9),
        least=0,
        below=1,
    )
    unit: str = setting(
        "auto",
        "unit",
        "auto, head, query-head, kv-group, or none.",
        label="Attention unit",
        choices=UNITS.ALL,
    )
    allocation: str = setting(
        "auto",
        "allocation",
        "auto, uniform, paper, global, or sublayer.",
        label="Allocation",
        hint="uniform and paper: the same widths in every block. global: standardised scores "
        "compared across blocks. sublayer: whole sublayers, for BlockPruner. auto: what the "
        "criterion's authors use.",
        choices=ALLOCATIONS,
    )
    protect_first: int = setting(
        0,
        "number of protected first blocks",
        "Leave the first so many blocks whole.",
        label="Protect first blocks",
        least=0,
    )
    protect_last: int = setting(
        0,
        "number of protected last blocks",
        "Leave the last so many blocks whole.",
        label="Protect last blocks",
        least=0,
    )
    round_to: int = setting(
        1,
        "multiple that widths are rounded to",
        "Round FFN widths to a multiple of this.",
        label="Round FFN widths to",
        offered=(1, 8, 32, 64, 128, 256),
        least=1,
    )
    floor: float = setting(
        0.0,
        "floor",
        "With global allocation: the share of its units that each sublayer keeps.",
        label="Floor of a block",
        hint="With global allocation: the share of its heads and of its channels that every "
        "block keeps at least. 0 lets whole sublayers go.",
        least=0,
        most=1,
        step=0.05,
    )
    compensation: str = setting(
        "auto",
        "compensation",
        "auto, none, bias, or least-squares.",
        label="Compensation",
        hint="What makes up for the cut: nothing, a bias (the mean of what went), or a least-"
        "squares refit of the output projections. auto: what the criterion's authors use.",
        choices=COMPENSATIONS,
    )
    propagation: str = setting(
        "dense",
        "propagation",
        "dense, or pruned: score each block on the pruned ones before it.",
        label="Propagation",
        hint="dense scores every block on the dense model's activations; pruned on those that "
        "the blocks already pruned give it.",
        choices=PROPAGATIONS,
    )
    source: str = setting(
        "",
        "plan",
        "A plan file (see the command plan) instead of choosing one.",
        flag="--plan",
    )

    @property
    def choice(self) -> dict[str, Any]:
        """The settings of `make_plan`."""
        others = ("compensation", "propagation", "source")
        return {name: value for name, value in asdict(self).items() if name not in others}


PERPLEXITY = "perplexity"
"""The metric that is measured where none is named."""


@dataclass(frozen=True)
class EvaluationSpec(Checked):
    """Figures on the test text ``text``, its first ``max_tokens`` tokens (None: all).

    ``metrics`` are names of `evaluation.metrics.METRICS`. Each figure is stored by itself, so they
    are no part of the `identity` that it is found by.
    """

    text: str = setting("builtin", "test text", f"Test text: {_TEXTS} file.", offered=NAMED)
    window: int = setting(512, "window", "Perplexity window, in tokens.", least=2)
    max_tokens: int | None = setting(
        4096,
        "number of test tokens",
        "Use the first so many tokens; 0 for all.",
        least=2,
        optional=True,
    )
    metrics: tuple[str, ...] = setting(
        (PERPLEXITY,), "metrics", "Metrics by name, with commas between."
    )

    @property
    def facts(self) -> dict:
        """The spec as plain data; the metrics are named where they are not perplexity alone."""
        said = asdict(self)
        if set(self.metrics) == {PERPLEXITY}:
            del said["metrics"]
        return said

    def identity(self) -> dict:
        """The text with its content; raises InputError where there is no such text."""
        said = {name: value for name, value in asdict(self).items() if name != "metrics"}
        return said | {"content": find_text(self.text, purpose="test").identity}

    def asked(self) -> dict:
        """`identity`, and which metrics where `facts` names them: what all the figures together
        depend on."""
        named = {"metrics": sorted(set(self.metrics))} if "metrics" in self.facts else {}
        return self.identity() | named


SEVEN = ("boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge", "openbookqa")
"""The common-sense tasks of the paper's tables, by their names in lm_eval."""


@dataclass(frozen=True)
class ZeroShotSpec(Checked):
    """Which tasks, with how many examples in the prompt, on how many rows of each (None: all).

    ``batch_size`` is how many requests run at once: it changes speed and memory, not the result.
    """

    tasks: tuple[str, ...] = setting(
        SEVEN, "tasks", "Tasks by their names in lm_eval, with commas between.", offered=SEVEN
    )
    num_fewshot: int = setting(0, "number of examples", "Solved examples in every prompt.", least=0)
    limit: int | None = setting(
        None,
        "limit in rows of each task",
        "Measure the first so many rows of each task (default: all).",
        least=1,
        optional=True,
    )
    batch_size: int = setting(
        8, "batch size", "Requests in a forward pass; changes speed, not results.", least=1
    )


@dataclass(frozen=True)
class RecoverySpec(Checked):
    """How a pruned model is fine-tuned with LoRA; the defaults are the paper's.

    ``samples`` of ``seq_len`` tokens from the calibration text ``source``, drawn with ``seed``,
    seen ``epochs`` times in batches of ``batch_size`` by AdamW, the learning rate falling from
    ``learning_rate`` as a cosine after a linear rise over the share ``warmup`` of the steps.
    ``targets``: "all", "attention" or "ffn" linear layers of the blocks, or their own names
    ("q_proj"). ``validation`` more samples are held out; with ``patience`` > 0 training stops
    when their loss has not improved in so many looks, ``validate_every`` steps apart.
    """

    source: str = setting(
        "c4",
        "training text",
        f"Training text: {_TEXTS} file.",
        flag="--train-text",
        offered=NAMED,
    )
    samples: int = setting(
        20_000, "number of training samples", "Training samples.", flag="--train-samples", least=1
    )
    seq_len: int = setting(
        512,
        "length of a training sample",
        "Tokens in a training sample.",
        flag="--train-seq-len",
        least=2,
    )
    seed: int = setting(
        0,
        "seed",
        "Seed of the training samples and the adapter.",
        flag="--train-seed",
        least=0,
        most=LARGEST_SEED,
    )
    rank: int = setting(8, "rank of a recovery", "Rank of LoRA's matrices.", least=1)
    alpha: float = setting(
        16.0,
        "alpha of a recovery",
        "LoRA's alpha: what it adds is times alpha / rank.",
        above=0,
    )
    dropout: float = setting(
        0.0, "dropout", "Dropout of what enters LoRA's matrices.", least=0, below=1
    )
    targets: tuple[str, ...] = setting(
        ("all",),
        "targets",
        "all, attention, ffn, or names of linear layers, with commas between.",
        offered=("all", "attention", "ffn"),
    )
    learning_rate: float = setting(
        1e-4, "learning rate of a recovery", "The highest learning rate.", above=0
    )
    batch_size: int = setting(
        128,
        "batch size of a recovery",
        "Samples in an optimiser step, over all its forward passes.",
        least=1,
    )
    epochs: int = setting(1, "number of epochs", "How often each sample is seen.", least=1)
    warmup: float = setting(
        0.0, "warm-up", "Share of the steps in which it rises.", least=0, below=1
    )
    weight_decay: float = setting(0.0, "weight decay", "AdamW's weight decay.", least=0)
    validation: int = setting(
        32,
        "number of held-out samples",
        "More samples, held out to watch the loss.",
        least=0,
    )
    validate_every: int = setting(
        10, "number of steps between two looks", "Steps between two looks at them.", least=1
    )
    patience: int = setting(
        0,
        "patience",
        "Stop after so many looks without improvement, and keep the best; 0: never.",
        least=0,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience and not self.validation:
            raise InputError(
                "To stop early, samples have to be held out; give some for validation."
            )

    @property
    def text(self) -> CalibrationSpec:
        """The samples to train on and those held out, in one draw."""
        return CalibrationSpec(self.source, self.samples + self.validation, self.seq_len, self.seed)

    def identity(self) -> dict:
        """The spec with the text's content; raises InputError where there is no such text."""
        return asdict(self) | {"content": self.text.identity()["content"]}
