"""What criteria share that take gradients: what has to hold, how they are had, what they keep."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..data.samples import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.extremes import is_finite
from ..models.shapes import ModelShape
from ..models.streaming import check_whole
from .statistics import check_length

_LEAST_SCALE = 2.0**-10


def check_gradients(
    adapter: Adapter, calibration: CalibrationSet, what: str = "A criterion that takes gradients"
) -> None:
    """Raise InputError for samples of one token, or a model that is not all in memory, which
    ``what`` cannot do with."""
    check_length(adapter, calibration)
    if calibration.seq_len < 2:
        raise InputError("A loss needs calibration samples of at least 2 tokens.")
    check_whole(adapter.model, what)


def sample_loss(adapter: Adapter, tokens: Tensor) -> Tensor:
    """The mean −log p(next token) of tokens (1, T), in float32."""
    logits = adapter.model(input_ids=tokens, use_cache=False).logits  # (1, T, V)
    return functional.cross_entropy(logits[0, :-1].float(), tokens[0, 1:].to(logits.device))


def backward(adapter: Adapter, tokens: Tensor, weights: Sequence[Tensor], scale: float) -> float:
    """Let ``weights`` have the gradients of the loss of tokens (1, T) times a scale, which is
    returned (see `scaled_backward`)."""

    def forget() -> None:
        for weight in weights:
            weight.grad = None

    return scaled_backward(
        adapter.model,
        lambda: sample_loss(adapter, tokens),
        scale,
        found=lambda: (weight.grad for weight in weights if weight.grad is not None),
        forget=forget,
        inputs=weights,
    )


def scaled_backward(
    model: nn.Module,
    loss: Callable[[], Tensor],
    scale: float,
    *,
    found: Callable[[], Iterable[Tensor]],
    forget: Callable[[], None],
    inputs: Sequence[Tensor] | None = None,
) -> float:
    """Take the gradients of ``loss()`` times a scale, which is returned: ``scale``, or of a model
    in float16 the first smaller one with which none of those ``found`` overflows; before it is
    tried they are to ``forget``."""
    while True:
        with torch.enable_grad():
            (loss() * scale).backward(inputs=inputs)
        narrow = model.dtype == torch.float16 and scale > _LEAST_SCALE
        if not narrow or all(map(is_finite, found())):
            return scale
        scale /= 32
        forget()


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


def prunable_weights(shape: ModelShape) -> int:
    """The weights of the blocks' projections."""
    return sum(
        block.heads * shape.head_cost.weights
        + block.kv_heads * shape.kv_head_cost.weights
        + block.channels * shape.channel_cost.weights
        for block in shape.blocks
    )
