"""Frozen specs: what a result is a pure function of. Plain data, with defaults.

Each field says what it may be (see `settings`): a spec that could not be used cannot be made.
`identity` turns a spec into what the run store is keyed by: where a spec names a file or a
folder, its content counts and not only its name. They may import `settings`, `data` and `models`.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from ..models.identity import DEMO, known_content
from ..models.loading import DTYPES, resolve_device
from ..models.memory import AUTO, read_size
from ..settings import Checked, setting
from .recovery import RecoverySpec
from .texts import PERPLEXITY, CalibrationSpec, EvaluationSpec

__all__ = [
    "ALLOCATIONS",
    "COMPENSATIONS",
    "PERPLEXITY",
    "PROGRAMS",
    "PROPAGATIONS",
    "SEVEN",
    "UNITS",
    "CalibrationSpec",
    "EvaluationSpec",
    "ModelSpec",
    "PlanSpec",
    "RecoverySpec",
    "ScoreSpec",
    "ZeroShotSpec",
]


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
    memory: str = setting(
        AUTO,
        "memory",
        "Budget for weights and activations: auto (what is free), 700MiB, 24GB, ... A model that "
        "does not fit into it runs from the disk, one block at a time.",
        read=read_size,
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


ALLOCATIONS = (
    "auto",
    "uniform",
    "paper",
    "log",
    "linear",
    "owl",
    "block-influence",
    "global",
    "sublayer",
    "block",
    "two-stage",
)
COMPENSATIONS = ("auto", "none", "bias", "least-squares")
PROPAGATIONS = ("dense", "pruned")
PROGRAMS = ("", "stock", "vllm", "gguf")


@dataclass(frozen=True)
class PlanSpec(Checked):
    """How much to cut, how it is shared out (see `make_plan`), and what makes up for it.

    ``compensation`` (see `compensate`): "auto" is what the criterion's authors use.
    ``propagation``: "dense" scores every block on what enters it in the dense model; "pruned"
    on the output of the blocks already pruned. ``source``: a plan file, or the name of a stored
    plan, to take as it is; the other settings do not count then. ``deployable``: the program that
    takes the plan, one of `PROGRAMS`, "" for any.
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
        "auto, uniform, paper, log, linear, owl, block-influence, global, "
        "sublayer, block, or two-stage.",
        label="Allocation",
        hint="uniform and paper: the same widths in every block. log and linear: later blocks give "
        "up more. owl and block-influence: blocks with more outliers, or that change the hidden "
        "states more, give up less. global: standardised scores compared across blocks. sublayer "
        "and block: whole sublayers or blocks, for criteria that rank them. two-stage: "
        "whole attentions and FFN channels, for 2SSP. auto: what the "
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
    deployable: str = setting(
        "",
        "program",
        "Make a plan that this program takes: stock (transformers), vllm, or gguf (llama.cpp).",
        label="Deployable to",
        hint="The plan is one that this program takes, as the table on the Export page says: most "
        "need the same widths in every block, some all heads. What is auto is chosen so; what "
        "does not go with it is refused. For q8_0, round FFN widths to 32, too.",
        choices=PROGRAMS,
    )
    source: str = setting(
        "",
        "plan",
        "A plan file (see the command plan) instead of choosing one.",
        flag="--plan",
    )

    @property
    def choice(self) -> dict[str, Any]:
        """The settings of `make_plan`, and the program that the plan is for where there is one."""
        others = ("compensation", "propagation", "source", "" if self.deployable else "deployable")
        return {name: value for name, value in asdict(self).items() if name not in others}


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
