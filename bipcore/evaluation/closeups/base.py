"""What close-ups of a head and of a channel have in common: the tokens that it promotes, and what
the loss becomes without it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ...models.adapters import Adapter, Block
from ...models.finite import check_finite
from ...models.running import (
    Walk,
    capture_inputs,
    logits_of,
    negative_log_likelihood,
    replaced_forwards,
)
from ...models.shapes import check_unit
from ...models.streaming import present
from ...progress import Progress, tracked

MOST_TOKENS = 256
"""So many tokens of a text are read at most: an attention pattern has the square of them."""

PROMOTED = 10
"""So many of the tokens that are promoted most are kept, and as many of the least."""

_ROWS = 8192  # of the unembedding that are turned into float32 at a time


@dataclass(frozen=True)
class Token:
    """A token of the vocabulary, its text, and what is added to its logit (see `promoted`)."""

    id: int
    text: str
    value: float


@dataclass(frozen=True)
class Promoted:
    """The tokens that are promoted most (``up``) and least (``down``), the furthest first."""

    up: tuple[Token, ...]
    down: tuple[Token, ...]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Promoted":
        """The inverse of `dataclasses.asdict`."""
        return cls(*(tuple(Token(**one) for one in data[name]) for name in ("up", "down")))


@dataclass(frozen=True)
class Silenced:
    """The dense model's ``loss`` on a text, the mean of −log p of the token that follows, and by
    how much it rises where one head or channel gives zero at every position (``by_zero``), or its
    mean over the text's positions (``by_mean``); all in nats a token."""

    loss: float
    by_zero: float
    by_mean: float


def block_of(adapter: Adapter, block: int, kind: str, number: int) -> Block:
    """The block ``block``. Raises InputError where there is none, or it has no ``kind`` ("head" or
    "channel") of that number."""
    check_unit([one.shape for one in adapter.blocks], block, kind, number)
    return adapter.blocks[block]


def check_text(tokens: Tensor) -> None:
    """Raise InputError for tokens (T,) of which none follows another."""
    if len(tokens) < 2:
        raise InputError("A text for a close-up has at least 2 tokens; write more.")


def inputs_of(
    adapter: Adapter,
    tokens: Tensor,
    block: int,
    linear: nn.Linear,
    take: Callable[[Tensor], None],
    *,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> None:
    """Call ``take(x)`` with what enters ``linear``, a projection of block ``block``, on each batch
    of token ids (N, T) in order: (B, T, n). What is behind that block is not run."""
    report = tracked(progress)
    walk = Walk(adapter, tokens, batch_size=batch_size)
    for index in range(block):
        report(index / (block + 1), "Reading the text")
        walk.step(index)
    with capture_inputs({None: linear}, lambda _, x: take(x)):
        walk.step(block, advance=False)
    report(1.0, "Reading the text")


def promoted(adapter: Adapter, vector: Tensor, tokenizer) -> Promoted:
    """What ``vector`` (d,), added to the residual stream, does to the logits in the end.

    Each token of the vocabulary is given Σ_i U[token, i]·g_i·vector_i: g (d,) is the gain of the
    norm behind the blocks (Gemma's 1 + weight), U (V, d) the unembedding. This is the direct path
    of the logit lens (nostalgebraist, 2020; Geva et al., arXiv 2203.14680), without what later
    blocks make of the vector, without the final norm's division by the size of the hidden state,
    its centring and its bias, and without a scale or a softcap of the logits. So values tell
    tokens apart, and are no logits. Raises InputError for a model with a projection between
    its last block and the unembedding.
    """
    head = adapter.model.get_output_embeddings()
    with present(head):
        if head.weight.shape[1] != len(vector):
            raise InputError(
                "This model projects its hidden states before the unembedding; what one head or "
                "channel promotes cannot be read off there."
            )
        gained = vector.float() * adapter.final_gain.to(vector.device)
        gained = gained.to(head.weight.device)
        logits = torch.cat([rows.float() @ gained for rows in head.weight.split(_ROWS)]).cpu()
    check_finite(logits, "What is added to a logit", adapter.model)
    count = min(PROMOTED, len(logits))

    def said(values: Tensor, ids: Tensor) -> tuple[Token, ...]:
        pairs = zip(ids.tolist(), values.tolist(), strict=True)
        return tuple(Token(one, tokenizer.decode([one]), value) for one, value in pairs)

    return Promoted(said(*logits.topk(count)), said(*logits.topk(count, largest=False)))


@contextmanager
def silence(linear: nn.Linear, columns: slice, value: Tensor) -> Iterator[None]:
    """Within the block ``linear`` reads ``value`` in place of these columns of its input, at every
    position. Its weights are left alone."""
    own = linear.forward

    def forward(x: Tensor) -> Tensor:
        changed = x.clone()
        changed[..., columns] = value.to(x)
        return own(changed)

    with replaced_forwards({linear: forward}):
        yield


def losses_without(
    adapter: Adapter,
    tokens: Tensor,
    linear: nn.Linear,
    columns: slice,
    mean: Tensor,
    progress: Progress | None = None,
) -> Silenced:
    """`Silenced` on tokens (T,), read as one row, of what enters ``linear`` by ``columns``, whose
    ``mean`` (columns,) is over the positions of that text."""
    report = tracked(progress)
    found = []
    for number, value in enumerate((None, torch.zeros_like(mean), mean)):
        with report.share(number, 3):
            if value is None:
                found.append(_loss(adapter.model, tokens, report))
                continue
            with silence(linear, columns, value):
                found.append(_loss(adapter.model, tokens, report))
    loss, by_zero, by_mean = found
    return Silenced(loss, by_zero - loss, by_mean - loss)


def _loss(model: nn.Module, tokens: Tensor, report: Progress) -> float:
    """The mean of −log p of the token that follows, over tokens (T,), in nats."""
    message = "The loss on the text"
    rows = logits_of(model, tokens[None], batch_size=1, progress=report, message=message)
    total = torch.stack([negative_log_likelihood(logits, row) for row, logits in rows]).sum()
    check_finite(total, "The loss", model)
    return total.item() / (len(tokens) - 1)
