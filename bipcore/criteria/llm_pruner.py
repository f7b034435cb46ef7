"""LLM-Pruner: the change of the loss when a weight is set to zero, by Taylor expansion.

The gradients are those of the calibration loss with respect to the weights of the blocks'
projections. The model comes out as it went in: weights, mode, `requires_grad` and `.grad` of every
parameter.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..data.samples import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.running import evaluation_mode, loss_scale
from ..models.shapes import ModelShape
from ..progress import Progress
from .base import ChannelScores, Criterion, Style, sum_coupled
from .gradients import (
    activation_bytes,
    alone_requiring_grad,
    backward,
    check_gradients,
    prunable_weights,
)


@dataclass(frozen=True, eq=False)
class WeightGradient:
    """Of one weight, float32 in its shape: ``mean`` over the samples of the gradients g_n, and
    ``mean_square`` of their squares, element by element; None where it was not asked for."""

    mean: Tensor
    mean_square: Tensor | None = None


def collect_gradients(
    adapter: Adapter, calibration: CalibrationSet, progress: Progress, *, squares: bool = False
) -> list[list[WeightGradient]]:
    """For every block, the gradient of each weight of its `linears`.

    g_n is the gradient of sample n's mean negative log-likelihood of a token, given those
    before it in the sample: the mean of g_n is that of the loss over the calibration set.
    Samples are run one at a time; ``progress`` is called before each, and may raise to cancel.
    Raises InputError for samples of one token, or a model that is not all in memory.
    """
    check_gradients(adapter, calibration)
    weights = [linear.weight for block in adapter.blocks for linear in block.linears]
    sums = [_Sum(weight, squares) for weight in weights]
    scale = loss_scale(adapter.model)
    with evaluation_mode(adapter.model), alone_requiring_grad(adapter.model, weights):
        for index, sample in enumerate(calibration.tokens):
            progress(index / calibration.samples, "Gradients over the calibration set")
            scale = backward(adapter, sample[None].to(adapter.input_device), weights, scale)
            for each in sums:
                each.take(scale)
        found = iter([each.result(calibration.samples) for each in sums])
    progress(1.0, "Gradients over the calibration set")
    return [[next(found) for _ in block.linears] for block in adapter.blocks]


class _Sum:
    """Running sums in float32 of a weight's gradient, and of its square.

    A float32 weight's own `.grad` is the sum, as far as no squares are wanted: backward adds up.
    """

    def __init__(self, weight: nn.Parameter, squares: bool) -> None:
        self.weight = weight
        self.own = weight.dtype == torch.float32 and not squares
        self.total = None if self.own else torch.zeros_like(weight, dtype=torch.float32)
        self.squares = torch.zeros_like(weight, dtype=torch.float32) if squares else None

    def take(self, scale: float) -> None:
        """Add the gradient of one sample, of a loss times ``scale``, and free it."""
        gradient = self.weight.grad
        if self.own or gradient is None:  # None: a weight that was not run, of no rows
            return
        gradient = gradient.float() / scale if scale != 1 else gradient.float()
        self.total += gradient
        if self.squares is not None:
            self.squares.addcmul_(gradient, gradient)
        self.weight.grad = None

    def result(self, samples: int) -> WeightGradient:
        total = self.weight.grad if self.own else self.total
        if total is None:
            total = torch.zeros_like(self.weight)
        squares = None if self.squares is None else self.squares.div_(samples)
        return WeightGradient(total.div_(samples), squares)


def score_model(
    adapter: Adapter, calibration: CalibrationSet, progress: Progress, *, order: int = 1
) -> list[ChannelScores]:
    """Σ over the coupled weights of the expected change of the loss (arXiv 2305.11627, "Param").

    L is the mean over the samples of their mean negative log-likelihood of a token; g_n the
    gradient of sample n's, g the mean of g_n. ``order`` 1: |w·g|. ``order`` 2:
    |w·g - ½·w²·mean_n g_n²|, the Hessian's diagonal taken as that of the empirical Fisher matrix
    (the paper's equations 4 and 5; their ½ Σ is that of the mean over samples here).
    Raises InputError for another order, or samples of one token.
    """
    _check_order(order)
    gradients = collect_gradients(adapter, calibration, progress, squares=order == 2)
    found = []
    for block in adapter.blocks:
        of_block = gradients.pop(0)  # freed block by block
        changes = [_change(*pair) for pair in zip(block.linears, of_block, strict=True)]
        found.append(sum_coupled(block.split(changes)))
    return found


def _change(linear: nn.Linear, gradient: WeightGradient) -> Tensor:
    """By how much the loss falls when each weight is set to zero, signed, (out, in)."""
    weight = linear.weight.detach().float()
    change = weight * gradient.mean
    if gradient.mean_square is not None:
        change -= weight.square().mul_(gradient.mean_square).div_(2)
    return change


def memory(shape: ModelShape, seq_len: int, *, element_size: int = 4, order: int = 1) -> int:
    """Bytes beside the model: the gradients of all prunable weights, and one sample's activations.

    A weight takes 4 bytes for the running sum, in order 2 4 more for that of the squares, and
    ``element_size`` for the sample's own gradient; in order 1 of a float32 model that is the sum.
    For activations see `gradients.activation_bytes`. Raises InputError.
    """
    _check_order(order)
    own = 0 if order == 1 and element_size == 4 else element_size
    return (4 * order + own) * prunable_weights(shape) + activation_bytes(shape, seq_len)


def _check_order(order: int) -> None:
    if order not in (1, 2):
        raise InputError(f"The order of the Taylor expansion is 1 or 2, not {order}.")


CRITERION = Criterion(
    name="llm-pruner",
    title="LLM-Pruner (Taylor)",
    formula="Σ |w · ∂L/∂w| over the channel's coupled weights; order 2: |w·g - ½·w²·mean g²|",
    reference="https://arxiv.org/abs/2305.11627",
    needs="gradients",
    style=Style("#CC79A7", "solid", "triangle-up"),
    passes=lambda shape: 6,  # as measured on the demo model
    score_model=score_model,
    options={"order": 1},
    memory=memory,
)
