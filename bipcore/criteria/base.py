"""What a criterion is, and the scores it gives.

A criterion scores one block from its weights and its statistics. It sees no plan and no module.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..models.adapters import BlockWeights
from ..models.shapes import ModelShape
from ..store.kinds import Kind
from .elimination import Elimination
from .statistics import BlockStatistics, InputMoments


@dataclass(frozen=True, eq=False)
class BlockInput:
    """What a criterion is given of one block; ``statistics`` is None where it needs none.

    ``tokens`` is the number of calibration tokens behind the statistics.
    """

    index: int
    weights: BlockWeights
    statistics: BlockStatistics | None
    tokens: int


@dataclass(frozen=True, eq=False)
class ChannelScores:
    """A criterion's scores of single channels.

    ``query`` (H·h,): what belongs to a channel of one query head alone. ``shared`` (K·h,):
    what belongs to the channel of a key/value head, and so to every query head that reads it;
    None where there is nothing. ``ffn`` (F,).
    """

    query: Tensor
    shared: Tensor | None
    ffn: Tensor


@dataclass(frozen=True, eq=False)
class BlockScores:
    """One block's scores, float32 on the CPU: higher is more important.

    ``attention`` (H·h,) by attention output channel, ``heads`` (H,) their sums by query head,
    ``kv_groups`` (K,) the sums over the query heads that share a key/value head, in which
    what the heads share counts once, ``ffn`` (F,) by feed-forward channel.
    """

    attention: Tensor
    heads: Tensor
    kv_groups: Tensor
    ffn: Tensor


@dataclass(frozen=True)
class CurveSettings:
    """How curves are made: the ``ridge``, a share of each input's mean square (see
    `elimination.held_back`); ``grouped``: many channels at once, and heads by SlimGPT's price;
    ``fisher``: the error weighed by the Fisher matrix of the sublayer's output, so that it is the
    predicted rise of the loss, in nats a token; that matrix from the first ``tokens`` calibration
    tokens, in whole samples, at least one. Raises InputError."""

    ridge: float
    grouped: bool = False
    fisher: bool = False
    tokens: int = 8192

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InputError(f"The tokens for the Fisher matrix are at least 1, not {self.tokens}.")
        if not 1e-6 <= self.ridge <= 1e6:
            raise InputError(f"The ridge is a number from 1e-6 to 1e6, not {self.ridge}.")


@dataclass(frozen=True, eq=False)
class BlockCurves:
    """The curves of one block.

    ``heads``: a round takes one query head of every KV group, numbered within the group; where
    every head has a key/value head of its own, one head of the block. ``kv_groups``: one
    key/value head with all its query heads. ``ffn``: one channel.
    """

    heads: Elimination
    kv_groups: Elimination
    ffn: Elimination


@dataclass(frozen=True)
class Style:
    """How the line of a criterion looks in every chart: colour, dash and symbol in plotly's words.

    The colours are Okabe and Ito's, which colour-blind readers can tell apart; where there are
    more lines than colours, dash and symbol tell them apart as well.
    """

    color: str = "#5B6770"
    dash: str = "solid"
    symbol: str = "circle"


@dataclass(frozen=True)
class Criterion:
    """A named way to score channels: finite numbers, at least 0, the higher the more important.

    ``needs``: "nothing", "weights", "activations" (the statistics of one forward pass), or
    "passes" (of its own), "gradients", "search" or "second moments" (these run the calibration set
    themselves). One of three computes it:
    ``score_block(block, **options)`` from one `BlockInput`,
    ``score_model(adapter, calibration, progress, **options)``, which returns the
    `ChannelScores` of every block and may read the whole model; ``calibration`` is None where
    ``needs`` says so; or ``score_curves(curves, head_dim)`` from a block's curves, made as
    ``curves`` says, in which its options stand. ``options`` are the defaults of its options.
    ``memory(shape, seq_len, *, element_size, **options)``: the bytes it takes beside a model whose
    weights have so many bytes each, and a forward pass.
    ``passes(shape)``: about what it costs, in forward passes that it runs itself over the
    calibration set, or over as much of it as its option ``tokens`` says; the one pass that those
    which read activations share is not one of them.
    ``allocation`` and ``compensation`` are what its authors use it with.
    ``formula``, ``reference`` and ``style`` are for people.
    """

    name: str
    title: str
    formula: str
    reference: str
    needs: str
    score_block: Callable[..., ChannelScores] | None = None
    score_model: Callable[..., Sequence[ChannelScores]] | None = None
    score_curves: Callable[[BlockCurves, int], ChannelScores] | None = None
    curves: CurveSettings | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    memory: Callable[..., int] | None = None
    passes: Callable[[ModelShape], int] = lambda shape: 0
    style: Style = Style()
    allocation: str = "uniform"
    compensation: str = "none"

    @property
    def calibrated(self) -> bool:
        """Whether its scores depend on the calibration set."""
        return self.needs == "activations" or self.runs

    @property
    def runs(self) -> bool:
        """Whether it runs the calibration set itself."""
        return self.needs in ("passes", "gradients", "search", "second moments")

    def read_tokens(self, options: Mapping[str, Any], tokens: int) -> int:
        """How many of the ``tokens`` of a calibration set one of its own passes reads."""
        return min(tokens, self.resolve(options).get("tokens", tokens))

    @property
    def local(self) -> bool:
        """Whether a block's scores depend on what enters it alone, not on the model behind it."""
        if self.curves is not None:
            return not self.curves.fisher
        return self.needs == "activations"

    def curve_settings(self, options: Mapping[str, Any]) -> CurveSettings:
        """How its curves are made with ``options``, all of them; raises InputError."""
        return replace(self.curves, **options)

    def resolve(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """The defaults overlaid with ``options``; raises InputError for one it does not have."""
        for name in options:
            if name not in self.options:
                have = ", ".join(self.options) or "none"
                raise InputError(
                    f"The criterion {self.name!r} has no option {name!r}; it has: {have}."
                )
            kind = type(self.options[name])
            if type(options[name]) is not kind:
                raise InputError(
                    f"The option {name!r} of {self.name!r} is of type {kind.__name__}, "
                    f"not {options[name]!r}."
                )
        return dict(self.options) | dict(options)


def sum_coupled(values: BlockWeights) -> ChannelScores:
    """Sum the absolute ``values``, one a weight, over the weights that each channel couples.

    Those are rows of q/k/v and columns of o; rows of gate/up and columns of down. Key and value
    rows are shared by the query heads of a KV group.
    """
    ffn = values.up.abs().sum(1) + values.down.abs().sum(0)
    if values.gate is not None:
        ffn = ffn + values.gate.abs().sum(1)
    return ChannelScores(
        query=values.q.abs().sum(1) + values.o.abs().sum(0),
        shared=values.k.abs().sum(1) + values.v.abs().sum(1),
        ffn=ffn,
    )


def sum_by_unit(channels: ChannelScores, weights: BlockWeights) -> BlockScores:
    """Sum channel scores into heads and KV groups (design: head = the sum of its h channels)."""
    heads, kv_heads, width = weights.heads, weights.kv_heads, weights.head_dim
    query = channels.query.reshape(heads, width)
    group = heads // kv_heads if kv_heads else 1
    if channels.shared is None:
        shared = query.new_zeros(kv_heads, width)
    else:
        shared = channels.shared.reshape(kv_heads, width)
    attention = query + shared.repeat_interleave(group, dim=0)
    kv_groups = query.sum(1).reshape(kv_heads, group).sum(1) + shared.sum(1)
    return BlockScores(
        *(
            score.detach().to("cpu", torch.float32).contiguous()
            for score in (attention.reshape(-1), attention.sum(1), kv_groups, channels.ffn)
        )
    )


@dataclass(frozen=True, eq=False)
class Scores:
    """The scores of every block, and what they came from.

    ``fingerprint`` is that of the calibration set, None for a criterion that needs none, and
    ``beginning`` says where its samples have the beginning-of-text token, empty where that is not
    known. ``depth``: one number a block for an allocation that asks for one (see
    `pruning.shares`), else none.
    """

    blocks: tuple[BlockScores, ...]
    criterion: str
    options: Mapping[str, Any]
    shape: ModelShape
    fingerprint: str | None = None
    beginning: str = ""
    depth: tuple[float, ...] = ()

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat dictionary for safetensors."""
        return {
            f"{index}.{name}": value
            for index, block in enumerate(self.blocks)
            for name, value in vars(block).items()
        }

    def to_dict(self) -> dict:
        """Everything but the tensors, as plain JSON types."""
        return {
            "criterion": self.criterion,
            "options": dict(self.options),
            "shape": self.shape.to_dict(),
            "fingerprint": self.fingerprint,
            "beginning": self.beginning,
            "depth": list(self.depth),
        }

    @classmethod
    def from_stored(cls, tensors: dict[str, Tensor], data: dict) -> "Scores":
        """The inverse of `to_tensors` and `to_dict`."""
        names = BlockScores.__dataclass_fields__
        shape = ModelShape.from_dict(data["shape"])
        blocks = tuple(
            BlockScores(**{name: tensors[f"{index}.{name}"] for name in names})
            for index in range(len(shape.blocks))
        )
        said = (data["criterion"], data["options"], shape, data["fingerprint"], data["beginning"])
        return cls(blocks, *said, tuple(data.get("depth", ())))


SCORES = Kind(
    "scores",
    "scores of heads and channels",
    version=3,
    write=lambda scores: (scores.to_tensors(), scores.to_dict()),
    read=Scores.from_stored,
)


def input_norm(moments: InputMoments, tokens: int, like: Tensor) -> Tensor:
    """‖X_j‖₂ over all calibration tokens, shape (n,), on the device of ``like``."""
    return (moments.mean_square * tokens).sqrt().to(like)
