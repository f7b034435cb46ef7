"""What a recovery makes smaller: the loss of the text, or the divergence from the dense model."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..models.divergence import positions_of


class _Divergence(torch.autograd.Function):
    """Σ KL(dense ‖ model) over the positions of logits, with its gradient softmax(q) − softmax(p).

    Both are had piece by piece in one go, so that of what autograd would keep in float32 there is
    one tensor alone, in the type of the logits.
    """

    @staticmethod
    def forward(ctx, logits: Tensor, dense: Tensor) -> Tensor:
        gradient = torch.empty_like(logits)
        sums = []
        for own, other, change in zip(*map(positions_of, (logits, dense, gradient)), strict=True):
            q, p = own.float().log_softmax(-1), other.float().log_softmax(-1)
            sums.append(functional.kl_div(q, p, reduction="sum", log_target=True))
            change.copy_(q.exp_().sub_(p.exp_()))
        ctx.save_for_backward(gradient)
        return torch.stack(sums).sum()

    @staticmethod
    def backward(ctx, slope: Tensor) -> tuple[Tensor, None]:
        return ctx.saved_tensors[0] * slope, None


def divergence(logits: Tensor, dense: Tensor) -> Tensor:
    """Σ_t KL(p_t ‖ q_t) in nats over all positions of logits (B, T, V), at temperature 1: p is the
    next-token distribution of the dense model, q that of the one that is trained (knowledge
    distillation, arXiv 1503.02531). It has a gradient by ``logits``."""
    return _Divergence.apply(logits.contiguous(), dense.contiguous())


def hidden_error(states: Sequence[Tensor], dense: Sequence[Tensor]) -> Tensor:
    """The mean over the blocks of Σ‖h − h_dense‖² / Σ‖h_dense‖² over all tokens, of the hidden
    states (B, T, d) that leave each, the last behind the final norm as `transformers` has it."""
    errors = [
        (own.float() - other.float()).square().sum() / other.float().square().sum()
        for own, other in zip(states, dense, strict=True)
    ]
    return torch.stack(errors).mean()
