"""How far a model's predictions are from the dense model's: KL divergence and agreement.

Both are over every token of every window: each has a distribution of what comes next, the last of
a window too.
"""

from torch import Tensor

from ...models.devices import widest
from ...models.divergence import kl_divergence
from .base import Metric


def agrees(logits: Tensor, dense: Tensor) -> Tensor:
    """Whether the likeliest next token is that of the dense model, at every position: bool (B, T),
    of logits (B, T, V) of both."""
    return logits.argmax(-1) == dense.argmax(-1)


def _kl_sums(logits: Tensor, tokens: Tensor, dense: Tensor) -> tuple[Tensor, int]:
    apart = kl_divergence(logits, dense)
    return apart.sum(dtype=widest(apart.device)), tokens.numel()


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
