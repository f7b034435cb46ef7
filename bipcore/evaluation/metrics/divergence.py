"""How far a model's predictions are from the dense model's: KL divergence and agreement.

Both are over every token of every window: each has a distribution of what comes next, the last of
a window too.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .base import Metric

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
    for own, other in zip(_parts(logits), _parts(dense), strict=True):
        q, p = own.float().log_softmax(-1), other.float().log_softmax(-1)
        parts.append(functional.kl_div(q, p, reduction="none", log_target=True).sum(-1))
    return torch.cat(parts).clamp(min=0).view(logits.shape[:-1])


def agrees(logits: Tensor, dense: Tensor) -> Tensor:
    """Whether the likeliest next token is that of the dense model, at every position: bool (B, T),
    of logits (B, T, V) of both."""
    return logits.argmax(-1) == dense.argmax(-1)


def _parts(logits: Tensor) -> tuple[Tensor, ...]:
    """The positions of logits (B, T, V) in pieces (n, V)."""
    return logits.flatten(0, -2).split(_POSITIONS)


def _kl_sums(logits: Tensor, tokens: Tensor, dense: Tensor) -> tuple[Tensor, int]:
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # mps has no float64
    return kl_divergence(logits, dense).sum(dtype=wide), tokens.numel()


def _agreement_sums(logits: Tensor, tokens: Tensor, dense: Tensor) -> tuple[Tensor, int]:
    return agrees(logits, dense).sum(), tokens.numel()


KL = Metric(
    name="kl",
    title="KL divergence",
    sums=_kl_sums,
    unit="nats a token",
    decimals=4,
    needs_dense=True,
    explanation="The mean over the text's tokens of KL(dense ‖ model), the divergence of the "
    "predicted next token from the dense model's; 0 where nothing was changed.",
)

AGREEMENT = Metric(
    name="agreement",
    title="Agreement",
    sums=_agreement_sums,
    unit="share of tokens",
    decimals=4,
    lower_is_better=False,
    needs_dense=True,
    explanation="The share of the text's tokens after which the likeliest next token is the dense "
    "model's.",
)
