"""Block influence: how much a block turns the hidden states (ShortGPT, arXiv 2403.03853)."""

import torch
from torch import Tensor
from torch.nn import functional

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..models.running import evaluation_mode
from ..models.streaming import is_streamed
from ..progress import Progress
from .base import ChannelScores, Criterion, Style
from .greedy_search import level
from .statistics import BlockWalk


@torch.no_grad()
def block_influence(
    adapter: Adapter, calibration: CalibrationSet, progress: Progress, *, batch_size: int = 4
) -> list[float]:
    """BI_l = 1 − mean_t cos(x_l,t, x_{l+1},t) of every block l, over all calibration tokens: x_l
    (d) enters it and x_{l+1} leaves it. The cosines are taken in float32, ``batch_size`` samples
    at a time; below 0, which is rounding alone, it is 0. Raises InputError.
    """
    message = "Hidden states before and after each block"
    turns: list[list[Tensor]] = [[] for _ in adapter.blocks]
    whole = is_streamed(adapter.model)  # else a block would be read for every batch
    step = calibration.samples if whole else batch_size
    with evaluation_mode(adapter.model):
        for start in range(0, calibration.samples, step):
            part = calibration.only(slice(start, start + step))
            walk = BlockWalk(adapter, part, batch_size=batch_size)
            for index, of_block in enumerate(turns):
                done = (start + step * index / len(turns)) / calibration.samples
                progress(min(done, 1.0), message)
                walk.step(index, watch=lambda x, y, to=of_block: to.append(_turn(x, y)))
    progress(1.0, message)
    count = calibration.tokens.numel()
    return [max(sum(torch.stack(of_block).tolist()) / count, 0.0) for of_block in turns]


def _turn(before: Tensor, after: Tensor) -> Tensor:
    """Σ over the tokens of 1 − the cosine between hidden states (B, T, d), on their device."""
    return (1 - functional.cosine_similarity(before.float(), after.float(), dim=-1)).sum()


def score_model(
    adapter: Adapter, calibration: CalibrationSet, progress: Progress
) -> list[ChannelScores]:
    """The influence of a block for each of its channels; whole blocks go, the lowest first."""
    influences = block_influence(adapter, calibration, progress)
    return [level(adapter.shape, index, bi, bi) for index, bi in enumerate(influences)]


CRITERION = Criterion(
    name="block-influence",
    title="Block influence (ShortGPT)",
    formula="1 − mean cos(x, x′) of the hidden states before and after the block",
    reference="https://arxiv.org/abs/2403.03853",
    needs="passes",
    style=Style("#0072B2", "dot", "hexagon"),
    passes=lambda shape: 1,
    score_model=score_model,
    allocation="block",
)
