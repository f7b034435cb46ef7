"""One query head from near by: whom it attends to, which tokens it promotes, what it is worth."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from ...models.adapters import Adapter, Block
from ...models.finite import check_finite
from ...models.running import Walk, check_vocabulary, evaluation_mode, replaced_forwards
from ...models.streaming import present
from ...progress import Progress, tracked
from ...store.kinds import Kind
from ..differences import pieces
from .base import (
    Promoted,
    Silenced,
    block_of,
    check_text,
    inputs_of,
    losses_without,
    promoted,
)


@dataclass(frozen=True, eq=False)
class HeadCloseUp:
    """A query head on a text of T tokens.

    ``tokens``: what each token adds to the text. ``pattern`` (T, T), float32 on the CPU: how much
    of its attention each position (row) gives to each (column); rows sum to 1. ``first_share``: the
    share that goes to the first token, the mean over the positions past it. ``promoted``: see
    `head_close_up`. ``silenced``: the loss on the text without it.
    """

    tokens: tuple[str, ...]
    pattern: Tensor
    first_share: float
    promoted: Promoted
    silenced: Silenced


def _written(found: HeadCloseUp) -> tuple[dict[str, Tensor], dict]:
    data = {one.name: getattr(found, one.name) for one in fields(found) if one.name != "pattern"}
    parts = {name: asdict(data[name]) for name in ("promoted", "silenced")}
    return {"pattern": found.pattern}, data | {"tokens": list(found.tokens)} | parts


def _read(tensors: dict[str, Tensor], data: dict) -> HeadCloseUp:
    return HeadCloseUp(
        tuple(data["tokens"]),
        tensors["pattern"],
        data["first_share"],
        Promoted.from_dict(data["promoted"]),
        Silenced(**data["silenced"]),
    )


HEAD_CLOSE_UPS = Kind("head-close-ups", "close-ups of heads", version=3, write=_written, read=_read)


@torch.no_grad()
def head_close_up(
    model: nn.Module,
    tokenizer,
    tokens: Tensor,
    block: int,
    head: int,
    *,
    progress: Progress | None = None,
) -> HeadCloseUp:
    """The close-up of query head ``head`` of block ``block`` on tokens (T,), read as one row.

    The attention pattern is what the model's own eager attention computes: after the softmax, and
    after a softcap of its scores where there is one. For the tokens that it promotes the columns
    of o that read the head, (d, h), are multiplied with the mean of what the head gives them over
    the positions past the first, (h,); that (d,) is multiplied by what the output of o is on its
    way to the residual (the gain of Gemma's norm there without its division, Granite's factor),
    and taken through the final norm's gain and the unembedding by `base.promoted`. The bias of o
    is no head's. It is silenced at the input of o: its h numbers are 0 at every position, or their
    mean over all T positions. The model is left as it is.

    Raises InputError for a block or a head that there is not, fewer than 2 tokens, or numbers that
    are not finite.
    """
    adapter, report = Adapter(model), tracked(progress)
    own = block_of(adapter, block, "head", head)
    check_text(tokens)
    check_vocabulary(model, tokens)
    columns = slice(head * own.head_dim, (head + 1) * own.head_dim)
    given: list[Tensor] = []
    with evaluation_mode(model):
        with report.within(0.0, 0.2) as within:
            pattern = _pattern(adapter, tokens, block, head, within)
        with report.within(0.2, 0.4) as within:
            inputs_of(
                adapter,
                tokens[None],
                block,
                own.o,
                lambda x: given.append(x[0, :, columns].float()),  # (T, h)
                progress=within,
            )
        found = promoted(adapter, _output(own, columns, given[0][1:].mean(0)), tokenizer)
        with report.within(0.4, 1.0) as within:
            mean = given[0].mean(0)
            silenced = losses_without(adapter, tokens, own.o, columns, mean, within)
    first = float(pattern[1:, 0].double().mean())
    return HeadCloseUp(tuple(pieces(tokens, tokenizer)), pattern, first, found, silenced)


def _output(block: Block, columns: slice, given: Tensor) -> Tensor:
    """What these ``columns`` of o make of ``given`` (columns,) on its way to the residual: (d,)."""
    with present(block.module):
        weights = block.weights()
    return weights.o[:, columns] @ given.to(weights.o) * weights.o_gain.to(weights.o)


def _pattern(adapter: Adapter, tokens: Tensor, block: int, head: int, progress: Progress) -> Tensor:
    """The attention weights (T, T) of one head on tokens (T,), in float32 on the CPU."""
    module, found = adapter.blocks[block].attention, []
    attend = module.forward

    def watched(*args: Any, **named: Any) -> Any:
        given = attend(*args, **named)
        found.append(given[1][0, head].float().cpu())
        return given

    with _eager(adapter.model):
        walk = Walk(adapter, tokens[None], batch_size=1)
        for index in range(block):
            progress(index / (block + 1), "The attention pattern")
            walk.step(index)
        with replaced_forwards({module: watched}):
            walk.step(block, advance=False)
    check_finite(found[0], "An attention weight", adapter.model)
    return found[0]


@contextmanager
def _eager(model: nn.Module) -> Iterator[None]:
    """Within the block the attention of ``model`` is computed in the one way that gives weights."""
    own = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    try:
        yield
    finally:
        model.config._attn_implementation = own
