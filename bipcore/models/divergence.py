"""How far the predictions of one model are from those of another."""

import torch
from torch import Tensor
from torch.nn import functional

_POSITIONS = 512
"""Logits are compared this many positions at a time."""


def kl_divergence(logits: Tensor, dense: Tensor) -> Tensor:
    """KL(dense ‖ model) of the distributions of the next token, Σ_v p_v (log p_v − log q_v) in
    nats, at every position: float32 (B, T), of logits (B, T, V) of the model (q) and of the dense
    one (p).

    A softmax is taken in float32, of so many positions at a time that the copies are small. That
    rounding may make less than 0 of a divergence of none; it is 0 then.
    """
    parts = []
    for own, other in zip(positions_of(logits), positions_of(dense), strict=True):
        q, p = own.float().log_softmax(-1), other.float().log_softmax(-1)
        parts.append(functional.kl_div(q, p, reduction="none", log_target=True).sum(-1))
    return torch.cat(parts).clamp(min=0).view(logits.shape[:-1])


def positions_of(logits: Tensor) -> tuple[Tensor, ...]:
    """The positions of logits (B, T, V) in pieces (n, V), of the same memory where it is in one
    piece."""
    return logits.flatten(0, -2).split(_POSITIONS)
