"""Running a model one decoder block at a time, outside its own forward pass.

`enter_blocks` says what would enter every block besides the hidden states (positions, masks);
with that, a block of any copy of the model can be run on hidden states of the caller's choice.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .adapters import Adapter
from .hooks import record_calls


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
    """What enters the blocks of a model for tokens (B, T): everything before them is run."""
    modules = [block.module for block in adapter.blocks]
    with record_calls(modules) as calls:
        adapter.run_blocks(tokens.to(adapter.input_device))
    return Entrance(hidden=calls[0][0], arguments=tuple(named for _, named in calls))
