"""MoDeGPT's choice of FFN channels: ridge leverage (arXiv 2408.09632, its Nyström part).

As published: the channels of the highest ridge leverage of the FFN's inner activations stay, and
the down projection is refitted from their correlations, which is the compensation least-squares.
Ours: the ridge is a share of the mean square of the inputs, where the authors take a number; and
the heads, which they do not remove (they make them narrower, by two other decompositions), have the
leverage of the inputs of the output projection, summed over their channels.
"""

import torch
from torch import Tensor

from ..data.samples import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.batches import rows_for
from ..models.shapes import ModelShape
from ..progress import Progress
from .base import ChannelScores, Criterion, Style
from .moments import second_moments_by_block

RIDGE = 0.01
"""As a share of the mean square of all inputs of the projection."""


def leverage(moments: Tensor, ridge: float) -> Tensor:
    """The ridge leverage of each of n inputs, diag(C (C + λI)⁻¹) = 1 − λ·diag((C + λI)⁻¹), of their
    second moments C (n, n), with λ = ``ridge`` · mean diag C: from 0 to 1, float64. 0 where all
    inputs are silent."""
    wide = moments.double()
    level = ridge * float(wide.diagonal().mean()) if len(wide) else 0.0
    if level <= 0:
        return wide.new_zeros(len(wide))
    held = wide.clone()
    held.diagonal().add_(level)
    factor, failed = torch.linalg.cholesky_ex(held)
    if failed:
        raise InputError("The second moments cannot be inverted; raise the ridge.")
    inverse = torch.cholesky_inverse(factor)
    return (1 - level * inverse.diagonal()).clamp(0, 1)


def score_model(
    adapter: Adapter, calibration: CalibrationSet, progress: Progress, *, ridge: float = RIDGE
) -> list[ChannelScores]:
    """The `leverage` of the inputs of o and of down of every block. Raises InputError."""
    if not 1e-6 <= ridge <= 1e6:
        raise InputError(f"The ridge is a number from 1e-6 to 1e6, not {ridge}.")
    settings = {"batch_size": rows_for(adapter.model, calibration.seq_len), "progress": progress}
    found = []
    for index, of_block in enumerate(
        second_moments_by_block(adapter.model, calibration, **settings)
    ):
        o, down = (
            leverage(of_block[f"{index}.{site}"].cpu(), ridge).float() for site in ("o", "down")
        )
        found.append(ChannelScores(query=o, shared=None, ffn=down))
    return found


def memory(shape: ModelShape, seq_len: int, *, element_size: int = 4, ridge: float = RIDGE) -> int:
    """Bytes beside the model: the second moments of one block, and four matrices in float64 of the
    widest projection's inputs."""
    widths = [(block.heads * shape.head_dim, block.channels) for block in shape.blocks]
    return max(4 * (o**2 + down**2) + 32 * max(o, down) ** 2 for o, down in widths)


CRITERION = Criterion(
    name="modegpt-ffn",
    title="MoDeGPT (FFN)",
    formula="diag(C (C + λI)⁻¹) of the inputs of o and down, C their second moments",
    reference="https://arxiv.org/abs/2408.09632",
    needs="second moments",
    style=Style("#E69F00", "dashdot", "star-diamond"),
    passes=lambda shape: 1,
    score_model=score_model,
    options={"ridge": RIDGE},
    memory=memory,
    compensation="least-squares",
)
