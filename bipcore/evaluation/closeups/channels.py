"""One FFN channel from near by: where it is active, which tokens it promotes, what it is worth."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...models.adapters import Adapter, Block
from ...models.batches import rows_for
from ...models.finite import check_finite
from ...models.running import check_vocabulary, evaluation_mode
from ...models.streaming import present
from ...progress import Progress, tracked
from ...store.kinds import Kind
from .base import (
    Promoted,
    Silenced,
    block_of,
    check_text,
    inputs_of,
    losses_without,
    promoted,
)

PEAKS = 10
"""So many of the strongest activations are kept."""

_BARS = 60
_BEFORE, _AFTER = 12, 6  # tokens around one that are shown


@dataclass(frozen=True)
class Peak:
    """One of the strongest activations: its ``value`` at ``position`` of calibration sample
    ``sample``, the text of the token there, and that of a few tokens before and after it."""

    sample: int
    position: int
    value: float
    before: str
    token: str
    after: str


@dataclass(frozen=True)
class Histogram:
    """How many activations (``counts``, n) lie between ``edges`` (n + 1,), at equal steps."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]

    @classmethod
    def of(cls, values: Tensor) -> "Histogram":
        """That of ``values`` (n,), from the least to the largest."""
        low, high = float(values.min()), float(values.max())
        if low == high:
            low, high = low - 0.5, high + 0.5
        counts, edges = torch.histogram(values.double().cpu(), bins=_BARS, range=(low, high))
        return cls(tuple(edges.tolist()), tuple(int(one) for one in counts.tolist()))


@dataclass(frozen=True)
class ChannelCloseUp:
    """An FFN channel on ``positions`` calibration tokens, and on a text of its own.

    An activation is what enters down_proj by this channel: of a gated FFN the product of gate and
    up. ``peaks``: those furthest from 0, the furthest first. ``mean``: that of all. ``promoted``:
    see `channel_close_up`. ``silenced``: the loss on the text of ``tokens`` tokens without it.
    """

    positions: int
    mean: float
    peaks: tuple[Peak, ...]
    histogram: Histogram
    promoted: Promoted
    tokens: int
    silenced: Silenced

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ChannelCloseUp":
        """The inverse of `dataclasses.asdict`."""
        parts = {
            "peaks": tuple(Peak(**one) for one in data["peaks"]),
            "histogram": Histogram(**{k: tuple(v) for k, v in data["histogram"].items()}),
            "promoted": Promoted.from_dict(data["promoted"]),
            "silenced": Silenced(**data["silenced"]),
        }
        return cls(**{**data, **parts})


CHANNEL_CLOSE_UPS = Kind(
    "channel-close-ups",
    "close-ups of FFN channels",
    version=3,
    write=lambda found: ({}, asdict(found)),
    read=lambda tensors, data: ChannelCloseUp.from_dict(data),
)


@torch.no_grad()
def channel_close_up(
    model: nn.Module,
    tokenizer,
    samples: Tensor,
    tokens: Tensor,
    block: int,
    channel: int,
    *,
    progress: Progress | None = None,
) -> ChannelCloseUp:
    """The close-up of FFN channel ``channel`` of block ``block``: its activations on calibration
    ``samples`` (N, S), and the loss on tokens (T,), read as one row.

    The tokens that it promotes are those of its column of down_proj (d,), for an activation of 1
    (one below 0 does the opposite): multiplied by what the output of down_proj is on its way to
    the residual (the gain of Gemma's norm there without its division, Granite's factor), and taken
    through the final norm's gain and the unembedding by `base.promoted`. It is silenced at the
    input of down_proj: 0 at every position, or its mean over the T positions. The model is left as
    it is.

    Raises InputError for a block or a channel that there is not, fewer than 2 tokens, or numbers
    that are not finite.
    """
    adapter, report = Adapter(model), tracked(progress)
    own = block_of(adapter, block, "channel", channel)
    check_text(tokens)
    for ids in (samples, tokens):
        check_vocabulary(model, ids)
    with evaluation_mode(model):
        with report.within(0.0, 0.5) as within:
            values = _activations(adapter, samples, block, channel, within)  # (N, S)
        found = promoted(adapter, _column(own, channel), tokenizer)
        with report.within(0.5, 0.6) as within:
            mean = _activations(adapter, tokens[None], block, channel, within).mean(1)  # (1,)
        with report.within(0.6, 1.0) as within:
            columns = slice(channel, channel + 1)
            silenced = losses_without(adapter, tokens, own.down, columns, mean, within)
    return ChannelCloseUp(
        positions=values.numel(),
        mean=float(values.double().mean()),
        peaks=_peaks(values, samples, tokenizer),
        histogram=Histogram.of(values.flatten()),
        promoted=found,
        tokens=len(tokens),
        silenced=silenced,
    )


def _activations(
    adapter: Adapter, samples: Tensor, block: int, channel: int, progress: Progress
) -> Tensor:
    """What enters down_proj by one channel on samples (N, S): float32, (N, S), on the CPU."""
    found: list[Tensor] = []
    inputs_of(
        adapter,
        samples,
        block,
        adapter.blocks[block].down,
        lambda x: found.append(x.reshape(-1, samples.shape[1], x.shape[-1])[..., channel].float()),
        batch_size=rows_for(adapter.model, samples.shape[1]),
        progress=progress,
    )
    values = torch.cat(found).cpu()
    check_finite(values, "An activation", adapter.model)
    return values


def _column(block: Block, channel: int) -> Tensor:
    """The channel's column of down_proj on its way to the residual: (d,)."""
    with present(block.module):
        weights = block.weights()
    return weights.down[:, channel] * weights.down_gain.to(weights.down)


def _peaks(values: Tensor, samples: Tensor, tokenizer) -> tuple[Peak, ...]:
    """The strongest of values (N, S), with the tokens of samples (N, S) around them."""
    length, found = samples.shape[1], []
    order = values.flatten().abs().argsort(descending=True, stable=True)[:PEAKS]
    for place in order.tolist():
        sample, position = divmod(place, length)
        ids = samples[sample].tolist()
        parts = (
            ids[max(position - _BEFORE, 0) : position],
            ids[position : position + 1],
            ids[position + 1 : position + 1 + _AFTER],
        )
        said = (tokenizer.decode(part) for part in parts)
        found.append(Peak(sample, position, float(values[sample, position]), *said))
    return tuple(found)
