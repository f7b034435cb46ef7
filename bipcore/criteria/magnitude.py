"""Weight magnitude, summed over the weights that a channel couples."""

from .base import BlockInput, ChannelScores, Criterion, Style, sum_coupled


def score_block(block: BlockInput) -> ChannelScores:
    """Σ|W| over the coupled weights."""
    return sum_coupled(block.weights)


CRITERION = Criterion(
    name="magnitude",
    title="Magnitude",
    formula="Σ |W| over the channel's coupled weights (q/k/v rows and o columns; gate/up and down)",
    reference="https://arxiv.org/abs/1608.08710",
    needs="weights",
    style=Style("#8C6D31", "solid", "x"),
    score_block=score_block,
)
