"""LoRAPrune: the Taylor score with gradients of low-rank adapters alone (arXiv 2305.18403).

No gradient of a weight is ever taken: what is trained are adapters W + s·B·A, and what training
would do to the product B·A stands in for it. The authors prune step by step while they train;
here the adapters are trained on the calibration set, a step for each sample, with nothing masked,
and the scores come out at the end. That is ours, as are the first weights of A and the optimiser's
settings beyond the learning rate.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.samples import CalibrationSet
from ..errors import InputError, check_seed
from ..models.adapters import Adapter, BlockWeights
from ..models.running import evaluation_mode, loss_scale, replaced_forwards
from ..models.shapes import ModelShape
from ..progress import Progress
from .base import ChannelScores, Criterion, Style
from .gradients import activation_bytes, alone_requiring_grad, backward, check_gradients

SCALE = 2.0
"""s = α / r, with the authors' α = 2·r."""
LEARNING_RATE = 1e-4
KEPT = 0.9
"""The share of its score so far that a channel keeps at every step."""


@dataclass(frozen=True, eq=False)
class _Adapted:
    """A linear with an adapter: ``a`` (r, in) and ``b`` (out, r), float32."""

    linear: nn.Linear
    a: Tensor
    b: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """The linear's output on x (…, in), with that of the adapter."""
        low = functional.linear(functional.linear(x, self.a.to(x.dtype)), self.b.to(x.dtype))
        return functional.linear(x, self.linear.weight, self.linear.bias) + SCALE * low

    @torch.no_grad()
    def change(self, da: Tensor, db: Tensor) -> Tensor:
        """|ĝ ∘ (s·B·A + W)| (out, in), with ĝ = ∂B·A + B·∂A − ∂B·∂A, float32."""
        gradient = db @ self.a + (self.b - db) @ da
        weight = self.linear.weight.float() + SCALE * self.b @ self.a
        return gradient.mul_(weight).abs_()


def score_model(
    adapter: Adapter,
    calibration: CalibrationSet,
    progress: Progress,
    *,
    rank: int = 8,
    seed: int = 0,
) -> list[ChannelScores]:
    """A moving average, over a training step for each sample, of Σ |ĝ ∘ (s·B·A + W)| over the
    coupled weights, the vector of each matrix divided by its L2 norm. Raises InputError."""
    check_gradients(adapter, calibration)
    check_seed(seed)
    if rank < 1:
        raise InputError(f"The rank of an adapter is at least 1, not {rank}.")
    blocks = _with_adapters(adapter, rank, seed)
    adapted = [one for block in blocks for one in block]
    trained = [tensor for one in adapted for tensor in (one.a, one.b)]
    optimizer = torch.optim.AdamW(trained, lr=LEARNING_RATE)
    scores: list[ChannelScores] | None = None
    scale = loss_scale(adapter.model)
    forwards = {one.linear: partial(_Adapted.forward, one) for one in adapted}
    with (
        evaluation_mode(adapter.model),
        alone_requiring_grad(adapter.model, ()),
        replaced_forwards(forwards),
    ):
        for index, sample in enumerate(calibration.tokens):
            progress(index / calibration.samples, "Gradients of adapters over the calibration set")
            optimizer.zero_grad()
            scale = backward(adapter, sample[None].to(adapter.input_device), trained, scale)
            for one in trained:
                if one.grad is not None:
                    one.grad /= scale
            found = [_channels(*pair) for pair in zip(adapter.blocks, blocks, strict=True)]
            scores = found if scores is None else list(map(_averaged, scores, found))
            optimizer.step()
    progress(1.0, "Gradients of adapters over the calibration set")
    return scores


def _with_adapters(adapter: Adapter, rank: int, seed: int) -> list[list[_Adapted]]:
    """An adapter for every projection of every block: A uniform as a linear's first weights are,
    drawn from ``seed``, and B zero."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for block in adapter.blocks:
        of_block = []
        for linear in block.linears:
            bound = 1 / math.sqrt(max(linear.in_features, 1))
            a = torch.empty(rank, linear.in_features).uniform_(-bound, bound, generator=generator)
            b = torch.zeros(linear.out_features, rank)
            device = linear.weight.device
            of_block.append(_Adapted(linear, *(one.to(device).requires_grad_() for one in (a, b))))
        blocks.append(of_block)
    return blocks


def _channels(block, adapted: Sequence[_Adapted]) -> ChannelScores:
    """The scores of one step."""
    values: BlockWeights = block.split([one.change(_grad(one.a), _grad(one.b)) for one in adapted])
    ffn = _unit(values.up.sum(1)) + _unit(values.down.sum(0))
    if values.gate is not None:
        ffn = ffn + _unit(values.gate.sum(1))
    return ChannelScores(
        query=_unit(values.q.sum(1)) + _unit(values.o.sum(0)),
        shared=_unit(values.k.sum(1)) + _unit(values.v.sum(1)),
        ffn=ffn,
    )


def _grad(tensor: Tensor) -> Tensor:
    """Its gradient; zeros where it was not run, being of no rows."""
    return torch.zeros_like(tensor) if tensor.grad is None else tensor.grad


def _unit(values: Tensor) -> Tensor:
    return functional.normalize(values, dim=0)


def _averaged(before: ChannelScores, now: ChannelScores) -> ChannelScores:
    parts = zip(vars(before).values(), vars(now).values(), strict=True)
    return ChannelScores(*(KEPT * old + (1 - KEPT) * new for old, new in parts))


def memory(
    shape: ModelShape, seq_len: int, *, element_size: int = 4, rank: int = 8, seed: int = 0
) -> int:
    """Bytes beside the model: the adapters with their gradients and moments, a matrix three times,
    and what autograd keeps of one sample."""
    hidden, size = shape.hidden, 0
    for block in shape.blocks:
        widths = (block.heads + 2 * block.kv_heads) * shape.head_dim
        size += rank * (4 * hidden + widths + block.heads * shape.head_dim)
        size += 3 * rank * (hidden + block.channels)
    matrix = hidden * max(block.channels for block in shape.blocks)
    return 4 * (4 * size + 3 * matrix) + activation_bytes(shape, seq_len)


CRITERION = Criterion(
    name="loraprune",
    title="LoRAPrune (adapters' gradients)",
    formula="Σ |ĝ ∘ (W + s·B·A)|, ĝ = ∂B·A + B·∂A − ∂B·∂A, each matrix's vector of norm 1",
    reference="https://arxiv.org/abs/2305.18403",
    needs="gradients",
    style=Style("#CC79A7", "dash", "triangle-left"),
    passes=lambda shape: 4,
    score_model=score_model,
    options={"rank": 8, "seed": 0},
    memory=memory,
)
