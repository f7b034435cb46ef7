"""Running a model one decoder block at a time, outside its own forward pass.

`enter_blocks` says what would enter every block besides the hidden states (positions, masks);
with that, a block of any copy of the model can be run on hidden states of the caller's choice.
`leave_blocks` runs what comes after the last block. `silent_sublayer` says how a block runs as if
its attention or its FFN were gone, its weights being left alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import Adapter, Block
from .hooks import evaluation_mode, record_calls, replaced_forwards

SUBLAYERS = ("attention", "ffn")
"""The two sublayers of a block."""


@dataclass(frozen=True, eq=False)
class Entrance:
    """One batch before the first block: ``hidden`` (B, T, d), and what each block is called with
    besides its hidden states."""

    hidden: Tensor
    arguments: tuple[dict[str, Any], ...]

    def run(self, index: int, block: nn.Module, hidden: Tensor) -> Tensor:
        """The output (B, T, d) of ``block``, called as block ``index``, on ``hidden`` (B, T, d)."""
        return block(hidden, **self.arguments[index])


@torch.no_grad()
def enter_blocks(adapter: Adapter, tokens: Tensor) -> Entrance:
    """What enters the blocks of a model for tokens (B, T): everything before them is run.

    In evaluation mode: in training, an embedding may be dropped out, and OPT may skip blocks.
    """
    modules = [block.module for block in adapter.blocks]
    with evaluation_mode(adapter.model), record_calls(modules) as calls:
        adapter.run_blocks(tokens.to(adapter.input_device))
    return Entrance(hidden=calls[0][0], arguments=tuple(named for _, named in calls))


@torch.no_grad()
def leave_blocks(adapter: Adapter, tokens: Tensor, hidden: Tensor) -> Tensor:
    """The logits (B, T, V) of tokens (B, T) whose last block gives ``hidden`` (B, T, d).

    Everything after the blocks is the model's own code (norm, head, a softcap of the logits); of
    the tokens only the shape matters.
    """

    def give(*args: Any, **named: Any) -> Tensor:
        return hidden

    with replaced_forwards({block.module: give for block in adapter.blocks}):
        return adapter.model(input_ids=tokens.to(adapter.input_device), use_cache=False).logits


def silent_sublayer(block: Block, sublayer: str) -> dict[nn.Module, Callable[..., Any]]:
    """What modules of ``block`` do, by `replaced_forwards`, for a sublayer with nothing in it.

    ``sublayer`` is one of `SUBLAYERS`. Without heads or channels, all that it adds is the bias
    of its output projection. Its input projections are not computed either.
    """
    if sublayer == "attention":
        return {block.attention: partial(_attend_nothing, block.o)}
    no_channels = dict.fromkeys(block.ffn_in, _take_nothing)
    return no_channels | {block.down: partial(_bias_only, block.down)}


def _attend_nothing(output: nn.Linear, *args: Any, **named: Any) -> tuple[Tensor, None]:
    """The result of an attention module (…, d) without heads, and no attention weights."""
    return _bias_only(output, args[0] if args else named["hidden_states"]), None


def _take_nothing(x: Tensor) -> Tensor:
    """No channels: (…, d) becomes (…, 0)."""
    return x[..., :0]


def _bias_only(linear: nn.Linear, x: Tensor) -> Tensor:
    """What ``linear`` gives for no inputs, for every token of x (…, any): (…, out)."""
    bias = x.new_zeros(linear.out_features) if linear.bias is None else linear.bias
    return bias.expand(*x.shape[:-1], -1)
