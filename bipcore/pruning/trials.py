"""Trying plans out: how far a pruned model is from the dense one, without making it whole.

Blocks are cut and made up for one by one, and only those that differ from the plan tried before;
the hidden states before every block are kept, so that a trial runs from the first of them on.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..models.adapters import Adapter
from ..models.divergence import kl_divergence
from ..models.running import enter_blocks, evaluation_mode, leave_blocks
from .compensation import change, made_up
from .plan import BlockPlan, PruningPlan
from .slicing import check_fits, sliced_block

_VARIANTS = 2
"""So many forms of a block are kept: what is tried, and what it is tried against."""


def trial_bytes(dense: nn.Module, tokens: Tensor) -> int:
    """What `Trials` of tokens (N, T) hold beside the model, in bytes, at most."""
    shape, element = Adapter(dense).shape, dense.dtype.itemsize
    hidden = tokens.numel() * shape.hidden * (len(shape.blocks) + 2)
    return element * (hidden + _VARIANTS * shape.block_parameters)


class Trials:
    """Plans of ``dense`` on tokens (N, T), ``batch_size`` rows at a time.

    ``compensation`` and ``sources`` are those of `compensation.compensate`. The dense model is not
    touched. Held: the hidden states (N, T, d) of the plan tried last before every block, those of
    the dense model behind the last, and two forms of every block.
    """

    def __init__(
        self,
        dense: nn.Module,
        tokens: Tensor,
        *,
        batch_size: int,
        compensation: str = "none",
        **sources: Any,
    ) -> None:
        self._adapter, self._how = Adapter(dense), (compensation, sources)
        self._batches = tokens.split(batch_size)
        self._tokens = tokens.numel()
        self._made: list[dict[BlockPlan, nn.Module]] = [{} for _ in self._adapter.blocks]
        self._last: tuple[BlockPlan, ...] | None = None
        self._entrances = [enter_blocks(self._adapter, batch) for batch in self._batches]
        self._hidden = [[entrance.hidden] for entrance in self._entrances]
        self._dense = self._run([block.module for block in self._adapter.blocks], 0)

    @torch.no_grad()
    def divergence(self, plan: PruningPlan) -> float:
        """The mean KL divergence of the next-token distributions of the dense model from those of
        the model pruned by ``plan``, in nats a token; infinite where it is not a number."""
        check_fits(self._adapter, plan)
        first = self._first_changed(plan)
        modules = [self._block(index, keep) for index, keep in enumerate(plan.blocks)]
        self._last, total = None, 0.0
        after = self._run(modules, first)
        self._last = plan.blocks
        for batch, own, dense in zip(self._batches, after, self._dense, strict=True):
            logits = (leave_blocks(self._adapter, batch, hidden) for hidden in (own, dense))
            total += float(kl_divergence(*logits).sum(dtype=torch.float64))
        return total / self._tokens if total == total else float("inf")

    def _first_changed(self, plan: PruningPlan) -> int:
        if self._last is None:
            return 0
        pairs = zip(self._last, plan.blocks, strict=True)
        changed = (index for index, (was, now) in enumerate(pairs) if was != now)
        return next(changed, len(plan.blocks) - 1)

    def _block(self, index: int, keep: BlockPlan) -> nn.Module:
        """Block ``index`` cut down to ``keep``; the last `_VARIANTS` of it are kept."""
        made = self._made[index]
        module = made.pop(keep, None)
        if module is None:
            before, (kind, sources) = self._adapter.blocks[index], self._how
            block = sliced_block(self._adapter, index, keep)
            change(block, made_up(before, index, keep, kind, **sources))
            module = block.module
        made[keep] = module
        if len(made) > _VARIANTS:
            del made[next(iter(made))]
        return module

    def _run(self, modules: list[nn.Module], first: int) -> list[Tensor]:
        """What leaves the last block (B, T, d) of each batch, blocks being run from ``first`` on;
        what enters each is kept."""
        found = []
        with evaluation_mode(self._adapter.model):
            for entrance, hidden in zip(self._entrances, self._hidden, strict=True):
                del hidden[first + 1 :]
                for index in range(first, len(modules)):
                    after = entrance.run(index, modules[index], hidden[index])
                    hidden.append(after)
                found.append(hidden.pop())
        return found
