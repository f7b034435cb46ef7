"""Minitron's activation-based importance of neurons and heads (arXiv 2407.14679)."""

import torch
from torch import Tensor

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..progress import Progress
from .base import ChannelScores, Criterion, Style
from .per_sample import sums_over_samples


def score_model(
    adapter: Adapter, calibration: CalibrationSet, progress: Progress
) -> list[ChannelScores]:
    """‖mean_t |X_n,t,j|‖₂² over the samples n: of a neuron, the input of down; of a head, summed
    over its h channels of the input of o, the square of the L2 norm over them too.

    The authors take the norms; squared, they rank the same, and a head's is the sum of its
    channels'. They cut all blocks to the same widths, and distil.
    """
    sums = sums_over_samples(adapter, calibration, ("o", "down"), _mean_square, progress)
    return [
        ChannelScores(query=sums[index, "o"], shared=None, ffn=sums[index, "down"])
        for index in range(len(adapter.blocks))
    ]


def _mean_square(x: Tensor) -> Tensor:
    """(mean_t |X_tj|)² of the inputs (T, n) of one sample, (n,)."""
    return x.abs().mean(0, dtype=torch.float32).square()


CRITERION = Criterion(
    name="minitron",
    title="Minitron (activations)",
    formula="Σ over samples of (mean |X_j| over their tokens)² of the inputs of o and down",
    reference="https://arxiv.org/abs/2407.14679",
    needs="passes",
    style=Style("#009E73", "dot", "pentagon"),
    passes=lambda shape: 1,
    score_model=score_model,
)
