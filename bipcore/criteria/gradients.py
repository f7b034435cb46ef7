"""Gradients of the calibration loss with respect to the weights of the blocks' projections.

The model comes out as it went in: weights, mode, `requires_grad` and `.grad` of every parameter.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.calibration import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.hooks import evaluation_mode
from ..progress import Progress
from .statistics import check_length


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
    _check(adapter, calibration)
    weights = [linear.weight for block in adapter.blocks for linear in block.linears]
    sums = [_Sum(weight, squares) for weight in weights]
    with evaluation_mode(adapter.model), _alone_requiring_grad(adapter.model, weights):
        for index, sample in enumerate(calibration.tokens):
            progress(index / calibration.samples, "Gradients over the calibration set")
            with torch.enable_grad():
                loss = _loss(adapter, sample[None].to(adapter.input_device))
                loss.backward(inputs=weights)
            del loss
            for each in sums:
                each.take()
        found = iter([each.result(calibration.samples) for each in sums])
    progress(1.0, "Gradients over the calibration set")
    return [[next(found) for _ in block.linears] for block in adapter.blocks]


def _check(adapter: Adapter, calibration: CalibrationSet) -> None:
    check_length(adapter, calibration)
    if calibration.seq_len < 2:
        raise InputError("Gradients need calibration samples of at least 2 tokens.")
    if any(parameter.is_meta for parameter in adapter.model.parameters()):
        raise InputError("Part of the model is offloaded: gradients need it where it fits whole.")


def _loss(adapter: Adapter, tokens: Tensor) -> Tensor:
    """The mean −log p(next token) of tokens (1, T), in float32."""
    logits = adapter.model(input_ids=tokens, use_cache=False).logits  # (1, T, V)
    return functional.cross_entropy(logits[0, :-1].float(), tokens[0, 1:].to(logits.device))


@contextmanager
def _alone_requiring_grad(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
    """Within the block only ``weights`` require gradients, and none has one yet.

    Other parameters would only cost time and memory; what was before comes back.
    """
    before = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    try:
        for parameter, _, _ in before:
            parameter.requires_grad_(False)
        for weight in weights:
            weight.grad = None
            weight.requires_grad_(True)
        yield
    finally:
        for parameter, required, gradient in before:
            parameter.requires_grad_(required)
            parameter.grad = gradient


class _Sum:
    """Running sums in float32 of a weight's gradient, and of its square.

    A float32 weight's own `.grad` is the sum, as far as no squares are wanted: backward adds up.
    """

    def __init__(self, weight: nn.Parameter, squares: bool) -> None:
        self.weight = weight
        self.own = weight.dtype == torch.float32 and not squares
        self.total = None if self.own else torch.zeros_like(weight, dtype=torch.float32)
        self.squares = torch.zeros_like(weight, dtype=torch.float32) if squares else None

    def take(self) -> None:
        """Add the gradient of one sample, and free it."""
        gradient = self.weight.grad
        if self.own or gradient is None:  # None: a weight that was not run, of no rows
            return
        gradient = gradient.float()
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
