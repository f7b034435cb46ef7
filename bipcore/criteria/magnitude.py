"""Weight magnitude, summed over the weights that a channel couples."""

from ..adapters import BlockWeights
from .base import BlockInput, ChannelScores, Criterion


def score_block(block: BlockInput) -> ChannelScores:
    """Σ|W| over the coupled weights: rows of q/k/v and columns of o; rows of gate/up, columns of
    down. Key and value rows are shared by the query heads of a KV group.
    """
    weights: BlockWeights = block.weights
    ffn = weights.up.abs().sum(1) + weights.down.abs().sum(0)
    if weights.gate is not None:
        ffn = ffn + weights.gate.abs().sum(1)
    return ChannelScores(
        query=weights.q.abs().sum(1) + weights.o.abs().sum(0),
        shared=weights.k.abs().sum(1) + weights.v.abs().sum(1),
        ffn=ffn,
    )


CRITERION = Criterion(
    name="magnitude",
    title="Magnitude",
    formula="Σ |W| over the channel's coupled weights (q/k/v rows and o columns; gate/up and down)",
    reference="https://arxiv.org/abs/1608.08710",
    needs="weights",
    score_block=score_block,
)
