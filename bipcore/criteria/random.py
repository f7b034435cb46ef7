"""Random scores: the floor that every criterion has to beat."""

import torch

from ..errors import check_seed
from .base import BlockInput, ChannelScores, Criterion, Style


def score_block(block: BlockInput, *, seed: int = 0) -> ChannelScores:
    """Uniform in [0, 1) for every channel, from a generator seeded by ``seed`` and the block."""
    check_seed(seed)
    weights = block.weights
    generator = torch.Generator().manual_seed((seed * 1_000_003 + block.index) % 2**63)
    return ChannelScores(
        query=torch.rand(weights.o.shape[1], generator=generator),
        shared=None,
        ffn=torch.rand(weights.down.shape[1], generator=generator),
    )


CRITERION = Criterion(
    name="random",
    title="Random",
    formula="uniform in [0, 1), seeded",
    reference="https://arxiv.org/abs/2305.11627",
    needs="nothing",
    style=Style("#7F7F7F", "dot", "cross"),
    score_block=score_block,
    options={"seed": 0},
)
