"""The Fisher matrix of every sublayer's output: what a change of it does to the loss.

A backward pass with labels drawn from the model itself gives gradients g of the loss with respect
to what o and down put out; ½·tr(M·C) with M = mean g gᵀ then predicts by how much the loss rises,
a token, when the output changes by something of the second moments C.
"""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..models.finite import check_finite
from ..models.running import capture_output_gradients, evaluation_mode, loss_scale
from ..models.shapes import ModelShape
from ..progress import Progress
from .gradients import (
    activation_bytes,
    alone_requiring_grad,
    check_gradients,
    scaled_backward,
)

Fisher = Mapping[str, Tensor]
"""M (d, d) by site, "o" and "down", float32."""

_SITES = ("o", "down")
_OWN = 0.5  # the share of M that is its own; the rest is its mean, as a few samples leave it noisy


def collect_fisher(
    adapter: Adapter, calibration: CalibrationSet, progress: Progress, *, seed: int = 0
) -> list[Fisher]:
    """M of o and down of every block, over ``calibration``; half of it its own, and half the mean
    of its diagonal on the diagonal.

    Labels are drawn with ``seed``, one a token, and the first token of a sample, which attention
    leans on, is left out. Samples are run one at a time. Raises InputError for samples of one
    token, or a model that is not all in memory.
    """
    check_gradients(adapter, calibration)
    sums: list[dict[str, Tensor]] = [{} for _ in adapter.blocks]
    generator = torch.Generator().manual_seed(seed)
    message, scale = "Fisher matrices over the calibration set", loss_scale(adapter.model)
    watched = {(i, s): block.sites[s] for i, block in enumerate(adapter.blocks) for s in _SITES}
    seen: dict[tuple[int, str], Tensor] = {}
    how = {"found": seen.values, "forget": seen.clear}
    with (
        evaluation_mode(adapter.model),
        alone_requiring_grad(adapter.model, []),
        capture_output_gradients(watched, seen.__setitem__),
    ):
        for index, sample in enumerate(calibration.tokens):
            progress(index / calibration.samples, message)
            tokens, drawn = sample[None].to(adapter.input_device), generator.get_state()
            loss = partial(_drawn_loss, adapter, tokens, generator, drawn)
            scale = scaled_backward(adapter.model, loss, scale, **how)
            _add(sums, seen, scale)
            seen.clear()
    progress(1.0, message)
    counted = calibration.samples * (calibration.seq_len - 1)
    for of_block in sums:
        for site, total in of_block.items():
            check_finite(total.diagonal(), "A gradient", adapter.model)
            of_block[site] = _blended(total / counted)
    return sums


def _drawn_loss(
    adapter: Adapter, tokens: Tensor, generator: torch.Generator, state: Tensor
) -> Tensor:
    """The mean −log p of a token drawn at every place from what the model expects there, by
    ``generator`` in this ``state``: the same ones when it is called again."""
    generator.set_state(state)
    logits = adapter.model(input_ids=tokens, use_cache=False).logits[0].float()  # (T, V)
    likely = logits.detach().softmax(-1).cpu()
    drawn = torch.multinomial(likely, 1, generator=generator)[:, 0]
    return functional.cross_entropy(logits, drawn.to(logits.device))


def _add(
    sums: list[dict[str, Tensor]], gradients: Mapping[tuple[int, str], Tensor], scale: float
) -> None:
    """Add g gᵀ of the gradients of each output, by its block and site, to ``sums``."""
    for (index, site), gradient in gradients.items():
        rows = gradient.flatten(0, -2).float()  # (T, d) of the mean over T tokens
        g = rows[1:] * (len(rows) / scale)  # of their sum
        before = sums[index].get(site)
        sums[index][site] = g.T @ g if before is None else before.addmm_(g.T, g)


def _blended(matrix: Tensor) -> Tensor:
    mean = matrix.diagonal().mean()
    return _OWN * matrix + (1 - _OWN) * mean * torch.eye(len(matrix)).to(matrix)


def memory(shape: ModelShape, seq_len: int) -> int:
    """Bytes beside the model: two matrices a block, and one sample's activations and gradients of
    two outputs a block."""
    of_block = 2 * 4 * (shape.hidden**2 + seq_len * shape.hidden)
    return len(shape.blocks) * of_block + activation_bytes(shape, seq_len)
