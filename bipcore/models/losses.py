"""The loss behind every perplexity."""

import math

from torch import Tensor
from torch.nn import functional

_POSITIONS = 512  # logits are turned into losses this many positions at a time


def negative_log_likelihood(logits: Tensor, tokens: Tensor) -> float:
    """Σ −log p(next token), in float32, over logits (B, T, V) and tokens (B, T)."""
    total = 0.0
    for row, target in zip(logits[:, :-1], tokens[:, 1:], strict=True):
        target = target.to(row.device)
        for start in range(0, len(target), _POSITIONS):
            part = slice(start, start + _POSITIONS)
            loss = functional.cross_entropy(row[part].float(), target[part], reduction="sum")
            total += loss.item()
    return total


def exp_of(loss: float) -> float:
    """The perplexity of a mean loss: exp, infinite where that overflows or the loss is nan."""
    return math.exp(loss) if loss < 700 else math.inf
