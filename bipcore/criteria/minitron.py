"""Minitron's activation-based importance of neurons and heads (arXiv 2407.14679)."""

import torch
from torch import Tensor

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..progress import Progress
from .base import ChannelScores, Criterion, Style
from .statistics import one_pass


class _SampleMeans:
    """The reducer: of the inputs of o and down, Σ_n (mean_t |X_n,t,j|)² by channel, of samples n
    that come one by one."""

    sites = ("o", "down")

    def __init__(self) -> None:
        self.sums: dict[tuple[int, str], Tensor] = {}

    def take(self, block: int, site: str, x: Tensor) -> None:
        mean = x.detach().abs().flatten(0, -2).mean(0, dtype=torch.float32)  # (n,)
        before = self.sums.get((block, site))
        self.sums[block, site] = mean.square() if before is None else before + mean.square()


def score_model(
    adapter: Adapter, calibration: CalibrationSet, progress: Progress
) -> list[ChannelScores]:
    """‖mean_t |X_n,t,j|‖₂² over the samples n: of a neuron, the input of down; of a head, summed
    over its h channels of the input of o, the square of the L2 norm over them too.

    The authors take the norms; squared, they rank the same, and a head's is the sum of its
    channels'. They cut all blocks to the same widths, and distil.
    """
    means = _SampleMeans()
    one_pass(adapter, calibration, means, batch_size=1, progress=progress)
    return [
        ChannelScores(query=means.sums[index, "o"], shared=None, ffn=means.sums[index, "down"])
        for index in range(len(adapter.blocks))
    ]


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
