"""Scoring each block on what the blocks already pruned give it (arXiv 2412.06419, algorithm 1)."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from ..criteria import find_criterion
from ..criteria.base import BlockInput, BlockScores, ChannelScores, Criterion, Scores, sum_by_unit
from ..criteria.curves import curves_of_block
from ..criteria.moments import SecondMomentSums
from ..criteria.statistics import BlockWalk, MomentSums
from ..data.samples import CalibrationSet
from ..models.adapters import Adapter, BlockWeights
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
            weights = block.weights()
            scores = sum_by_unit(_scored(chosen, walk, index, weights, tokens, settings), weights)
            check_finite(torch.cat([scores.attention, scores.ffn]), "A score", model)
            prune_block(block, *choose(scores, budgets[index], shape.blocks[index], plan.unit))
            block.sync_attributes(clone.config)
            walk.step(index)
            found.append(scores)
    came_from = (calibration.fingerprint, calibration.beginning)
    return Scores(tuple(found), criterion, settings, shape, *came_from)


def _scored(
    chosen: Criterion,
    walk: BlockWalk,
    index: int,
    weights: BlockWeights,
    tokens: int,
    settings: Mapping[str, Any],
) -> ChannelScores:
    """The scores of the block that the walk has come to, from what enters it."""
    block = {index: walk.adapter.blocks[index]}
    sums = MomentSums(block) if chosen.curves is None else SecondMomentSums(tokens)
    walk.watch(index, sums)
    if chosen.curves is None:
        given = BlockInput(index, weights, sums.result(tokens)[0], tokens)
        return chosen.score_block(given, **settings)
    found = sums.result(tokens)
    moments = {site: found[f"{index}.{site}"] for site in sums.sites}
    curves = curves_of_block(weights, moments, chosen.curve_settings(settings))
    return chosen.score_curves(curves, weights.head_dim)
