"""Scoring each block on what the blocks already pruned give it (arXiv 2412.06419, algorithm 1)."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ..criteria import find_criterion
from ..criteria.base import BlockInput, BlockScores, Scores, sum_by_unit
from ..criteria.statistics import Collector, check_length
from ..data.calibration import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter, Block
from ..models.running import Entrance, enter_blocks, evaluation_mode
from ..progress import Progress, silent
from ..specs import PlanSpec
from .allocation import allocate
from .choosing import choose
from .resolving import resolve
from .slicing import prune_block, shallow_clone


class _Batch:
    """A part of the calibration set on its way through the blocks: ``hidden`` (B, T, d)."""

    def __init__(self, entrance: Entrance) -> None:
        self.hidden = entrance.hidden
        self._entrance = replace(entrance, hidden=entrance.hidden[:0].clone())  # held once

    def run(self, index: int, block: Block) -> Tensor:
        return self._entrance.run(index, block.module, self.hidden)


@torch.no_grad()
def score_pruned(
    model: nn.Module,
    calibration: CalibrationSet,
    criterion: str,
    *,
    choice: Mapping[str, Any],
    batch_size: int = 4,
    progress: Progress | None = None,
    **options: Any,
) -> Scores:
    """Scores of ``model`` with ``propagation="pruned"``: block l+1 is fed by the pruned block l.

    ``choice`` are the settings of `make_plan`, which cuts the same from these scores. The hidden
    states of the whole calibration set are held: N·T·d numbers. ``model`` is not touched. Raises
    InputError for a criterion that needs no activations, and for an allocation whose widths
    depend on the scores.
    """
    chosen = find_criterion(criterion)
    settings = chosen.resolve(options)
    clone = shallow_clone(model)
    adapter, shape = Adapter(clone), Adapter(model).shape
    check_length(adapter, calibration)
    if batch_size < 1:
        raise InputError(f"The batch size is at least 1, not {batch_size}.")
    plan = resolve(PlanSpec(**choice, propagation="pruned"), chosen, shape)
    budgets = allocate(shape, plan)
    report = progress or silent
    batches = [
        _Batch(enter_blocks(adapter, tokens)) for tokens in calibration.tokens.split(batch_size)
    ]
    found: list[BlockScores] = []
    with evaluation_mode(clone):
        for index, block in enumerate(adapter.blocks):
            report(index / len(adapter.blocks), "Scoring on the output of the pruned blocks")
            collector = Collector([block])
            with collector.watching():
                for batch in batches:
                    batch.run(index, block)
            weights, tokens = block.weights(), calibration.tokens.numel()
            given = BlockInput(index, weights, collector.result(tokens)[0], tokens)
            scores = sum_by_unit(chosen.score_block(given, **settings), weights)
            prune_block(block, *choose(scores, budgets[index], shape.blocks[index], plan.unit))
            block.sync_attributes(clone.config)
            for batch in batches:
                batch.hidden = batch.run(index, block)
            found.append(scores)
    return Scores(tuple(found), criterion, settings, shape, calibration.fingerprint)
