"""How many tokens go through a model at once."""

import torch
from torch import nn

from .adapters import Adapter
from .memory import free_memory
from .processes import least
from .shapes import ModelShape
from .streaming import stream_of

MOST = 4096
"""The tokens of a pass through the blocks, where there is room."""

MOST_LOGITS_ON_CPU = 512
"""The same where a pass ends in logits, on the CPU. They are far wider than hidden states, and more
tokens were not faster (demo model, windows of 128 and 512, passes of up to 2048, 2 cores)."""

_SHARE = 0.5
"""The part of the free memory, or of a streamed model's budget, that a pass may take."""


def activation_bytes(shape: ModelShape, element: int) -> int:
    """The bytes that a token takes of a block's activations at their largest, ``element`` bytes a
    number.

    In attention: the residual and the normed states (d each), the norm's own copy in float32 where
    that is another type, q, k and v, q and k once more rotated, k and v once more for every query
    head, and what attention gives (H·h). In the FFN: residual and normed states, and three of F:
    gate, up and their product.
    """
    d, wide, most = shape.hidden, torch.float32.itemsize, 0
    for block in shape.blocks:
        q, k = block.heads * shape.head_dim, block.kv_heads * shape.head_dim
        repeated = 2 * q if block.group > 1 else 0
        most = max(most, 2 * (q + k) + k + repeated + q, 3 * block.channels)
    copy = 2 * d * wide if element != wide else d * wide
    return (2 * d + most) * element + copy


def rows_in_pass(
    shape: ModelShape,
    length: int,
    *,
    element: int,
    on_cpu: bool,
    room: int | None = None,
    logits: bool = False,
) -> int:
    """How many rows of ``length`` tokens are run together, at least one.

    ``room``: the bytes that are free, of which a pass may take half; None: as many as there have to
    be. ``logits``: whether the pass ends in logits, of which those of two passes are held.
    """
    tokens = MOST_LOGITS_ON_CPU if logits and on_cpu else MOST
    if room is not None:
        size = activation_bytes(shape, element)
        if logits:
            size += 2 * element * shape.other_weights // max(shape.hidden, 1)
        tokens = min(tokens, int(_SHARE * room) // size)
    return max(1, tokens // max(length, 1))


def rows_for(model: nn.Module, length: int, *, logits: bool = False) -> int:
    """`rows_in_pass` of ``model`` now: in its budget where it is streamed, and in what is free of
    the fullest of its GPUs. Processes in step all have the least that one of them finds."""
    adapter, stream = Adapter(model), stream_of(model)
    devices = {stream.device} if stream else {weight.device for weight in model.parameters()}
    gpus = [device for device in devices if device.type == "cuda"]
    rooms = [stream.budget] if stream else []
    if gpus:
        rooms.append(least(min(map(free_memory, gpus))))
    return rows_in_pass(
        adapter.shape,
        length,
        element=model.dtype.itemsize,
        on_cpu=not gpus,
        room=min(rooms, default=None),
        logits=logits,
    )
