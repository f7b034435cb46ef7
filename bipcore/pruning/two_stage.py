"""2SSP's way to share out a cut: a few attention sublayers as wholes, the rest of FFN widths."""

import math

import torch

from ..criteria.base import Scores
from ..errors import InputError
from ..models.shapes import BlockShape
from .plan import Kept
from .resolving import Resolved

EXPONENT = 1.5
"""The α of the paper."""


def keep_two_stage(scores: Scores, plan: Resolved) -> tuple[Kept, ...]:
    """What stays when N attention sublayers go, and as many of the FFN channels of every block as
    the sparsity s then asks for (2SSP, arXiv 2501.17771).

    N = round(L · s^(P_ffn / P_attention / 1.5)), with the parameters of the FFNs and of the
    attention of the L blocks that are not protected. Attention goes in ascending order of its mean
    channel score, the highest of all being kept; of a block's channels the lowest go. Raises
    InputError where it cannot be done.
    """
    shape = scores.shape
    blocks = range(plan.protect_first, len(shape.blocks) - plan.protect_last)
    attention = {
        index: shape.parameters_of_block(shape.blocks[index])
        - shape.parameters_of_block(BlockShape(0, 0, shape.blocks[index].channels))
        for index in blocks
        if shape.blocks[index].heads
    }
    channels = sum(shape.blocks[index].channels for index in blocks)
    ffn = channels * shape.channel_cost.parameters
    count = _attention_count(len(attention), plan.sparsity, ffn, sum(attention.values()))
    ranks = {index: float(scores.blocks[index].attention.mean()) for index in attention}
    order = sorted(
        (i for i in ranks if ranks[i] < max(ranks.values())), key=lambda i: (ranks[i], i)
    )
    gone = order[:count]
    left = plan.sparsity * shape.block_parameters - sum(attention[index] for index in gone)
    share = max(left / ffn, 0.0) if ffn else math.inf
    if count > len(order) or share >= 1:
        raise InputError(
            f"The sparsity {plan.sparsity:.1%} cannot be reached by {count} attention sublayers "
            "and the FFN channels; ask for less, or protect fewer blocks."
        )
    kept = []
    for index, was in enumerate(shape.blocks):
        heads = () if index in gone else tuple(range(was.heads))
        stay = _highest(scores.blocks[index].ffn, share if index in blocks else 0.0, plan.round_to)
        kept.append((heads, stay))
    return tuple(kept)


def _attention_count(blocks: int, sparsity: float, ffn: int, attention: int) -> int:
    """N of `keep_two_stage`, halves rounded up."""
    if not attention or not sparsity:
        return 0
    return math.floor(blocks * sparsity ** (ffn / attention / EXPONENT) + 0.5)


def _highest(values: torch.Tensor, share: float, round_to: int) -> tuple[int, ...]:
    """The channels that stay of an FFN (F,), ascending, when the lowest ``share`` goes; the width
    to the nearest multiple of ``round_to``, at least one."""
    width = len(values)
    if not width or not share:
        return tuple(range(width))
    multiples = max(math.floor(width * (1 - share) / round_to + 0.5), 1)
    count = min(multiples, width // round_to) * round_to
    order = torch.argsort(values, stable=True)
    return tuple(sorted(order[width - count :].tolist()))
