"""The criteria, in the order in which they are shown. To add one, write its file and list it."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from ..adapters import SITES, Adapter
from ..errors import InputError
from ..progress import Progress, silent
from ..statistics import Statistics
from . import llm_bip, magnitude, random, wanda, wanda_sp
from .base import BlockInput, BlockScores, Criterion, Scores, sum_by_unit

CRITERIA: dict[str, Criterion] = {
    module.CRITERION.name: module.CRITERION
    for module in (llm_bip, wanda, wanda_sp, magnitude, random)
}

__all__ = ["CRITERIA", "BlockScores", "Criterion", "Scores", "find_criterion", "score"]


def find_criterion(name: str) -> Criterion:
    """The criterion called ``name``; raises InputError with the known names."""
    if name not in CRITERIA:
        raise InputError(f"There is no criterion {name!r}; there are {', '.join(CRITERIA)}.")
    return CRITERIA[name]


@torch.no_grad()
def score(
    model: nn.Module,
    statistics: Statistics | None,
    criterion: str,
    *,
    progress: Progress | None = None,
    **options: Any,
) -> Scores:
    """Score every head and channel of ``model``, block by block; no forward pass is run.

    ``statistics`` come from `collect_statistics` on the same model, and may be None for a
    criterion that needs none. ``options`` are the criterion's. Raises InputError.
    """
    chosen = find_criterion(criterion)
    settings = chosen.resolve(options)
    adapter = Adapter(model)
    _check(chosen, statistics, adapter)
    report: Callable = progress or silent
    blocks = []
    for index, block in enumerate(adapter.blocks):
        report(index / len(adapter.blocks), f"Scoring with {chosen.title}")
        weights = block.weights()
        of_block = statistics.blocks[index] if chosen.needs == "activations" else None
        tokens = statistics.tokens if statistics else 0
        channels = chosen.score_block(BlockInput(index, weights, of_block, tokens), **settings)
        blocks.append(sum_by_unit(channels, weights))
    fingerprint = statistics.fingerprint if chosen.needs == "activations" else None
    return Scores(tuple(blocks), criterion, settings, adapter.shape, fingerprint)


def _check(criterion: Criterion, statistics: Statistics | None, adapter: Adapter) -> None:
    if criterion.needs != "activations":
        return
    if statistics is None:
        raise InputError(f"The criterion {criterion.name!r} needs statistics; collect them first.")
    widths = [[getattr(b, site).mean_square.numel() for site in SITES] for b in statistics.blocks]
    if widths != [[m.in_features for m in block.sites.values()] for block in adapter.blocks]:
        raise InputError("The statistics are those of a model with other widths.")
