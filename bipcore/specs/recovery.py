"""The spec of a recovery."""

from dataclasses import asdict, dataclass

from ..data.texts import NAMED
from ..errors import LARGEST_SEED, InputError
from ..settings import Checked, setting
from .texts import SHARES, TEXT_FIELD, TEXTS, CalibrationSpec, what_counts

OBJECTIVES = ("distill", "text")
TEACHERS = (LIVE, STORED) = ("live", "stored")
TRAINED = ("lora", "blocks", "refit")
AS_BEFORE = {"objective": "text", "train": "lora", "hidden_weight": 0.0, "teacher": LIVE}
"""What a stored recovery is of that does not say."""


@dataclass(frozen=True)
class RecoverySpec(Checked):
    """How a pruned model is trained to win back what it lost; the sizes are the paper's.

    ``objective``: "distill" brings its next-token distributions near to those of the dense model
    (see `recovery.objectives`), ``hidden_weight`` times the error of the blocks' outputs beside
    them; "text" predicts the text, as the paper does. ``teacher``: "live" runs the dense model
    beside it, "stored" takes what it said once of its likeliest tokens (see `recovery.teachers`).
    ``train``: "lora", a low-rank adapter;
    "blocks", all weights of the blocks; or "refit", those of the projections that were cut, with
    norms and biases.
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
        f"Training text: {TEXTS} {SHARES}",
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
    objective: str = setting(
        "distill",
        "objective",
        "distill (towards the dense model) or text (towards the text).",
        choices=OBJECTIVES,
    )
    train: str = setting(
        "lora",
        "what is trained",
        "What is trained: lora, blocks, or refit (what was cut, norms and biases).",
        flag="--train",
        choices=TRAINED,
    )
    hidden_weight: float = setting(
        0.0,
        "weight of the blocks' outputs",
        "With distill: what the error of the blocks' outputs counts beside the divergence.",
        least=0,
        most=1e6,
    )
    teacher: str = setting(
        LIVE,
        "teacher",
        "With distill: live (the dense model runs beside it) or stored (its 64 likeliest tokens at "
        "every position, kept once).",
        choices=TEACHERS,
    )
    rank: int = setting(8, "rank of a recovery", "Rank of LoRA's matrices.", least=1)
    alpha: float = setting(
        16.0,
        "alpha of a recovery",
        "LoRA's alpha: what it adds is times alpha / rank.",
        above=0,
        most=1e6,
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
        1e-4, "learning rate of a recovery", "The highest learning rate.", above=0, most=10
    )
    batch_size: int = setting(
        128,
        "batch size of a recovery",
        "Samples in an optimiser step, over all its forward passes.",
        least=1,
    )
    epochs: int = setting(
        1, "number of epochs", "How often each sample is seen.", least=1, most=10_000
    )
    warmup: float = setting(
        0.0, "warm-up", "Share of the steps in which it rises.", least=0, below=1
    )
    weight_decay: float = setting(0.0, "weight decay", "AdamW's weight decay.", least=0, most=100)
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
    text_field: str = setting("", "text field", TEXT_FIELD)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patience and not self.validation:
            raise InputError(
                "To stop early, samples have to be held out; give some for validation."
            )
        if self.hidden_weight and self.objective != "distill":
            raise InputError("The blocks' outputs count with the objective distill alone.")
        if self.teacher == STORED and self.objective != "distill":
            raise InputError("A stored teacher goes with the objective distill alone.")
        if self.teacher == STORED and self.hidden_weight:
            raise InputError(
                "The blocks' outputs of the dense model are not stored; use the teacher live, or "
                "leave them out."
            )

    @property
    def text(self) -> CalibrationSpec:
        """The samples to train on and those held out, in one draw."""
        samples = self.samples + self.validation
        return CalibrationSpec(self.source, samples, self.seq_len, self.seed, self.text_field)

    def identity(self) -> dict:
        """The spec with the text's content; raises InputError where there is no such text."""
        content = self.text.identity()["content"]
        said = what_counts(asdict(self), self.source) | {"content": content}
        return {key: value for key, value in said.items() if AS_BEFORE.get(key, ...) != value}
