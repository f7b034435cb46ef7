"""Scoring each block on what the blocks already pruned give it (arXiv 2412.06419, algorithm 1)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..criteria import find_criterion
from ..criteria.base import BlockInput, BlockScores, Scores, sum_by_unit
from ..criteria.statistics import BlockWalk, MomentSums
from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..models.finite import check_finite
from ..models.running import evaluation_mode
from ..progress import Progress, silent
from ..specs import PlanSpec
from .allocation import allocate
from .choosing import choose
from .resolving import resolve
from .slicing import prune_block, shallow_clone


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
    plan = resolve(PlanSpec(**choice, propagation="pruned"), chosen, shape)
    budgets = allocate(shape, plan)
    report, tokens = progress or silent, calibration.tokens.numel()
    found: list[BlockScores] = []
    with evaluation_mode(clone):
        walk = BlockWalk(adapter, calibration, batch_size=batch_size)
        for index, block in enumerate(adapter.blocks):
            report(index / len(adapter.blocks), "Scoring on the output of the pruned blocks")
            sums = MomentSums()
            walk.watch(index, sums)
            weights = block.weights()
            given = BlockInput(index, weights, sums.result(tokens)[0], tokens)
            scores = sum_by_unit(chosen.score_block(given, **settings), weights)
            check_finite(torch.cat([scores.attention, scores.ffn]), "A score", model)
            prune_block(block, *choose(scores, budgets[index], shape.blocks[index], plan.unit))
            block.sync_attributes(clone.config)
            walk.step(index)
            found.append(scores)
    came_from = (calibration.fingerprint, calibration.beginning)
    return Scores(tuple(found), criterion, settings, shape, *came_from)
