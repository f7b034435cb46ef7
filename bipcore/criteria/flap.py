"""FLAP: how much a channel fluctuates about the mean that a bias can stand in for."""

from torch import Tensor

from .base import BlockInput, ChannelScores, Criterion, Style
from .statistics import InputMoments


def fluctuation(moments: InputMoments, weight: Tensor) -> Tensor:
    """var_t(X_tj) · Σ_i W_ij², shape (n,), of an input X (T × n) and the weight W (d, n).

    The variance over all calibration tokens is mean_square - mean², in float64 and not below 0.
    The statistics are right to about 1e-7 of mean_square, so a variance a thousandth of that is
    right to about 1e-4.
    """
    variance = (moments.mean_square - moments.mean.square()).clamp_min(0)
    return variance.to(weight) * weight.square().sum(0)


def score_block(block: BlockInput) -> ChannelScores:
    """The weighted input fluctuation (WIFV, arXiv 2312.11983) of the inputs of o and down.

    A removed channel leaves its mean's contribution to the bias compensation; what is lost is
    the fluctuation, in expected squared output. The published method standardises the scores of
    each layer and compares them globally: that is the plan's part.
    """
    weights, statistics = block.weights, block.statistics
    return ChannelScores(
        query=fluctuation(statistics.o, weights.o),
        shared=None,
        ffn=fluctuation(statistics.down, weights.down),
    )


CRITERION = Criterion(
    name="flap",
    title="FLAP",
    formula="var(X_j) · ‖W_:j‖₂² over the columns of o and down",
    reference="https://arxiv.org/abs/2312.11983",
    needs="activations",
    style=Style("#009E73", "solid", "diamond"),
    score_block=score_block,
    allocation="global",
    compensation="bias",
)
