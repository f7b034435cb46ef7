"""What heads and channels are worth: the criteria, in the order in which they are shown.

To add one, write its file and list it here. A criterion sees no plan and no module's name. It may
import `models`, `data`, `store` and what they may.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ..data.samples import CalibrationSet
from ..errors import InputError
from ..models.adapters import SITES, Adapter
from ..models.finite import check_finite
from ..progress import Progress, silent
from ..store.resume import Journal
from . import (
    block_influence,
    blockpruner,
    flap,
    importance_propagation,
    llm_bip,
    llm_bip_gated,
    llm_pruner,
    loraprune,
    magnitude,
    minitron,
    modegpt_ffn,
    obs,
    obs_fisher,
    random,
    sleb,
    slimgpt,
    spsa,
    two_ssp,
    wanda,
    wanda_sp,
)
from .base import BlockInput, BlockScores, ChannelScores, Criterion, Scores, sum_by_unit
from .curves import Curves, collect_curves
from .statistics import Statistics, check_length

CRITERIA: dict[str, Criterion] = {
    module.CRITERION.name: module.CRITERION
    for module in (
        llm_bip,
        llm_bip_gated,
        wanda,
        wanda_sp,
        flap,
        llm_pruner,
        loraprune,
        spsa,
        minitron,
        modegpt_ffn,
        obs,
        obs_fisher,
        slimgpt,
        importance_propagation,
        blockpruner,
        sleb,
        block_influence,
        two_ssp,
        magnitude,
        random,
    )
}

COMPARED = ("llm-bip", "wanda-sp", "magnitude")
"""What a comparison starts with: one forward pass for all."""

__all__ = [
    "COMPARED",
    "CRITERIA",
    "BlockScores",
    "Criterion",
    "Scores",
    "find_criterion",
    "memory_of",
    "score",
]


def find_criterion(name: str) -> Criterion:
    """The criterion called ``name``; raises InputError with the known names."""
    if name not in CRITERIA:
        raise InputError(f"There is no criterion {name!r}; there are {', '.join(CRITERIA)}.")
    return CRITERIA[name]


def memory_of(criterion: Criterion, model: nn.Module, seq_len: int, **options: Any) -> int:
    """The bytes that ``criterion`` takes beside ``model``, on samples of ``seq_len`` tokens; 0
    where it takes nothing worth saying."""
    if criterion.memory is None:
        return 0
    adapter = Adapter(model)
    size = adapter.blocks[0].down.weight.element_size()
    return criterion.memory(adapter.shape, seq_len, element_size=size, **options)


@torch.no_grad()
def score(
    model: nn.Module,
    statistics: Statistics | None,
    criterion: str,
    *,
    calibration: CalibrationSet | None = None,
    journal: Journal | None = None,
    curves: Curves | None = None,
    progress: Progress | None = None,
    **options: Any,
) -> Scores:
    """Score every head and channel of ``model``.

    ``statistics`` come from `collect_statistics` on the same model; only a criterion that needs
    activations reads them, and no forward pass is run for it. ``calibration`` is for those that
    need gradients, second moments or a search, which run it themselves; ``journal`` keeps the steps
    of a search. ``curves`` are those of `collect_curves` on the calibration set, where they are
    there already. ``options`` are the criterion's.
    Raises InputError.
    """
    chosen = find_criterion(criterion)
    settings = chosen.resolve(options)
    adapter = Adapter(model)
    _check(chosen, statistics, calibration, adapter)
    report: Callable = progress or silent
    if chosen.curves is not None:
        how = chosen.curve_settings(settings)
        found = curves or collect_curves(adapter, calibration, how, progress=report)
        if found.shape.blocks != adapter.shape.blocks:
            raise InputError("The curves are those of a model with other widths.")
        channels = [chosen.score_curves(each, adapter.shape.head_dim) for each in found.blocks]
    elif chosen.score_model is not None:
        extra = {"journal": journal} if chosen.needs == "search" else {}
        channels = chosen.score_model(adapter, calibration, report, **extra, **settings)
    else:
        channels = _by_block(chosen, adapter, statistics, settings, report)
    blocks = tuple(
        sum_by_unit(of_block, block.weights())
        for of_block, block in zip(channels, adapter.blocks, strict=True)
    )
    for block in blocks:
        for values in (block.attention, block.ffn):
            check_finite(values, "A score", model)
    source = statistics if chosen.needs == "activations" else calibration
    came_from = (source.fingerprint, source.beginning) if chosen.calibrated else (None,)
    return Scores(blocks, criterion, settings, adapter.shape, *came_from)


def _by_block(
    chosen: Criterion,
    adapter: Adapter,
    statistics: Statistics | None,
    settings: dict,
    report: Progress,
) -> Iterator[ChannelScores]:
    """The scores of one block after the other, from its weights and statistics."""
    for index, block in enumerate(adapter.blocks):
        report(index / len(adapter.blocks), f"Scoring with {chosen.title}")
        of_block = statistics.blocks[index] if chosen.needs == "activations" else None
        tokens = statistics.tokens if statistics else 0
        yield chosen.score_block(BlockInput(index, block.weights(), of_block, tokens), **settings)


def _check(
    criterion: Criterion,
    statistics: Statistics | None,
    calibration: CalibrationSet | None,
    adapter: Adapter,
) -> None:
    if criterion.runs:
        if calibration is None:
            raise InputError(f"The criterion {criterion.name!r} needs a calibration set; give one.")
        check_length(adapter, calibration)
    if criterion.needs != "activations":
        return
    if statistics is None:
        raise InputError(f"The criterion {criterion.name!r} needs statistics; collect them first.")
    widths = [[getattr(b, site).mean_square.numel() for site in SITES] for b in statistics.blocks]
    if widths != [[m.in_features for m in block.sites.values()] for block in adapter.blocks]:
        raise InputError("The statistics are those of a model with other widths.")
