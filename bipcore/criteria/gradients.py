"""What criteria share that take gradients: what has to hold, what requires them, what they keep."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ..data.samples import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.shapes import ModelShape
from ..models.streaming import check_whole
from .statistics import check_length


def check_gradients(adapter: Adapter, calibration: CalibrationSet) -> None:
    """Raise InputError for samples of one token, or a model that is not all in memory."""
    check_length(adapter, calibration)
    if calibration.seq_len < 2:
        raise InputError("Gradients need calibration samples of at least 2 tokens.")
    check_whole(adapter.model, "A criterion that takes gradients")


@contextmanager
def alone_requiring_grad(model: nn.Module, weights: Sequence[nn.Parameter]) -> Iterator[None]:
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


def activation_bytes(shape: ModelShape, seq_len: int) -> int:
    """The bytes of one sample's activations: an estimate from above of what autograd keeps for the
    way back, in float32.

    For each token and block 12·d (norms and residuals), 3·(H·h + K·h) (q, k, v and the
    attention's output, turned and repeated) and F times 4, 2 without a gate; for each token 4
    copies of the logits. The H·T × T matrix that an unfused attention keeps (Gemma 2) is not in it.
    """
    gated, width = shape.channel_cost.weights > 2 * shape.hidden, 0
    for block in shape.blocks:
        width += 12 * shape.hidden + 3 * (block.heads + block.kv_heads) * shape.head_dim
        width += (4 if gated else 2) * block.channels
    return 4 * seq_len * (width + 4 * (shape.other_weights // shape.hidden))
