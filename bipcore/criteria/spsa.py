"""Zeroth-order Taylor: LLM-Pruner's score with gradients that forward passes alone estimate."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..data.samples import CalibrationSet
from ..errors import InputError, check_seed
from ..models.adapters import Adapter
from ..models.running import evaluation_mode
from ..models.shapes import ModelShape
from ..progress import Progress
from .base import ChannelScores, Criterion, Style, sum_coupled
from .gradients import check_gradients, prunable_weights, sample_loss


@torch.no_grad()
def estimate_gradients(
    adapter: Adapter, calibration: CalibrationSet, progress: Progress, *, epsilon: float, seed: int
) -> list[Tensor]:
    """The gradient of each weight of the blocks' projections, float32 in its shape, by simultaneous
    perturbation (Spall 1992; arXiv 2305.17333 for language models).

    The mean over the samples n of (L_n(W + ε·z_n) − L_n(W − ε·z_n)) / 2ε · z_n, with z_n standard
    normal in all weights at once, and L_n the mean negative log-likelihood of a token. The noise is
    drawn anew where it is needed, from ``seed``, not kept. The weights come back as they were, by
    an exception too. Raises InputError.
    """
    weights = [linear.weight for block in adapter.blocks for linear in block.linears]
    sums = [torch.zeros_like(weight, dtype=torch.float32) for weight in weights]
    message = "Losses of perturbed weights"
    with evaluation_mode(adapter.model):
        for index, sample in enumerate(calibration.tokens):
            progress(index / calibration.samples, message)
            tokens, drawn = sample[None].to(adapter.input_device), seed + index
            losses = []
            for step in (epsilon, -epsilon):
                with _moved(weights, step, drawn):
                    losses.append(float(sample_loss(adapter, tokens)))
            slope = (losses[0] - losses[1]) / (2 * epsilon) / calibration.samples
            for total, noise in zip(sums, _noise(weights, drawn), strict=True):
                total.add_(noise, alpha=slope)
    progress(1.0, message)
    return sums


def _noise(weights: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
    """Standard normal numbers in the shape of each weight, float32, the same for a seed."""
    generators = {
        device: torch.Generator(device).manual_seed(seed) for device in {w.device for w in weights}
    }
    for weight in weights:
        yield torch.randn(weight.shape, generator=generators[weight.device], device=weight.device)


@contextmanager
def _moved(weights: Sequence[nn.Parameter], step: float, seed: int) -> Iterator[None]:
    """Within it every weight is itself plus ``step`` times its noise, rounded to its type."""
    before = [weight.data for weight in weights]
    try:
        for weight, noise in zip(weights, _noise(weights, seed), strict=True):
            weight.data = noise.mul_(step).add_(weight.data).to(weight.dtype)
        yield
    finally:
        for weight, data in zip(weights, before, strict=True):
            weight.data = data


def score_model(
    adapter: Adapter,
    calibration: CalibrationSet,
    progress: Progress,
    *,
    epsilon: float = 1e-3,
    seed: int = 0,
) -> list[ChannelScores]:
    """Σ over the coupled weights of |w · ĝ|, ĝ being `estimate_gradients`.

    A direction for every sample: with few of them, ĝ is mostly noise. MINI-LLM (arXiv 2407.11681)
    builds on such gradients, by a formula that could not be verified; this is not that.
    """
    check_gradients(adapter, calibration, "A criterion that perturbs all weights")
    check_seed(seed)
    if not 0 < epsilon < 1:
        raise InputError(f"The step of a perturbation is above 0 and below 1, not {epsilon:g}.")
    found = estimate_gradients(adapter, calibration, progress, epsilon=epsilon, seed=seed)
    gradients, scores = iter(found), []
    for block in adapter.blocks:
        changes = [linear.weight.detach().float() * next(gradients) for linear in block.linears]
        scores.append(sum_coupled(block.split(changes)))
    return scores


def memory(
    shape: ModelShape, seq_len: int, *, element_size: int = 4, epsilon: float = 1e-3, seed: int = 0
) -> int:
    """Bytes beside the model: of each prunable weight the perturbed copy, the sum in float32, and
    the noise of one matrix."""
    weights = prunable_weights(shape)
    return (element_size + 4) * weights + 2 * 4 * shape.hidden * max(
        block.channels for block in shape.blocks
    )


CRITERION = Criterion(
    name="spsa",
    title="Zeroth-order Taylor (SPSA)",
    formula="Σ |w · ĝ| over the channel's coupled weights, ĝ from losses at W ± ε·z alone",
    reference="https://arxiv.org/abs/2305.17333",
    needs="passes",
    style=Style("#CC79A7", "dot", "triangle-down"),
    passes=lambda shape: 2,
    score_model=score_model,
    options={"epsilon": 1e-3, "seed": 0},
    memory=memory,
)
