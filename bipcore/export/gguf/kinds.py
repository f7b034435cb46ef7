"""The types that the weights of a GGUF file are written in."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...models.shapes import BlockShape
from ..number_types import Written, rounded_by
from .architectures import ZEROS, Architecture
from .tensors import slots_of


@dataclass(frozen=True)
class Kind:
    """One of them. ``held``: the type that holds each of its numbers; matrices are written so,
    vectors in float32. ``row``: what the length of a row is a multiple of. ``file_type``: the
    number that GGUF has for such files."""

    name: str
    held: torch.dtype
    row: int
    file_type: int

    @property
    def type(self) -> Any:
        """What `gguf` calls it."""
        import gguf

        return gguf.GGMLQuantizationType[self.name.upper()]

    def packed(self, tensor: Tensor) -> np.ndarray:
        """The matrix ``tensor`` as it lies in the file."""
        import gguf

        return gguf.quantize(tensor.float().contiguous().numpy(), self.type)


KINDS: dict[str, Kind] = {
    one.name: one
    for one in (
        Kind("f32", torch.float32, 1, 0),
        Kind("f16", torch.float16, 1, 1),
        Kind("bf16", torch.bfloat16, 1, 32),
        Kind("q8_0", torch.float32, 32, 7),
    )
}
_OF_TYPE = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def kind_of(dtype: torch.dtype) -> Kind:
    """The one without a loss for numbers of ``dtype``."""
    return KINDS[_OF_TYPE[str(dtype).removeprefix("torch.")]]


def unpacked(data: np.ndarray, type: Any) -> Tensor:
    """The float32 numbers of a tensor of a file, which is of a ``type`` of `gguf`."""
    import gguf

    return torch.from_numpy(np.array(gguf.dequantize(data, type)))


def row_problem(kind: Kind, shapes: Iterable[BlockShape], *, hidden: int, width: int) -> str | None:
    """Why matrices of these widths cannot be written in a kind, in a sentence."""
    if hidden % kind.row:
        return (
            f"{kind.name} has rows that are multiples of {kind.row}, and the hidden size of this "
            f"model is {hidden}; give --quantize f16."
        )
    for shape in shapes:
        heads = max(shape.heads, 1) * width
        if heads % kind.row:
            return (
                f"{kind.name} has rows that are multiples of {kind.row}, and {max(shape.heads, 1)} "
                f"heads of {width} are none; keep another number of heads, or give --quantize f16."
            )
        if (shape.channels or ZEROS) % kind.row:
            return (
                f"{kind.name} has rows that are multiples of {kind.row}, and {shape.channels} "
                f"channels are none; give --round-to {kind.row}, or --quantize f16."
            )
    return None


def as_kind(form: nn.Module, kind: Kind, architecture: Architecture) -> Written:
    """``form`` with the numbers that a file of ``kind`` gives back: matrices in the type that holds
    them, vectors in float32. Raises InputError where a number is too large."""
    norms = {s.key: s.plus for s in slots_of(form, architecture) if s.plus}
    changed = False

    def rounding(name: str, weight: Tensor) -> Tensor:
        nonlocal changed
        if weight.dim() < 2:
            plus = norms.get(name, 0.0)
            return weight.float() if not plus else (weight.float() + plus) - plus
        if kind.row > 1:
            held = unpacked(kind.packed(weight.cpu()), kind.type).to(weight.device)
        else:
            held = weight.to(kind.held)
        changed = changed or not torch.equal(held.to(weight.dtype), weight)
        return held

    rounded = rounded_by(form, rounding, kind.held)
    return Written(rounded, kind.name, _size(rounded, kind, architecture), changed)


def _size(form: nn.Module, kind: Kind, architecture: Architecture) -> int:
    """The bytes that the tensors of the file take."""
    import gguf

    block, packed = gguf.GGML_QUANT_SIZES[kind.type]
    sizes = dict(form.named_parameters())
    total = 0
    for slot in slots_of(form, architecture):
        tensor = slot.constant if slot.constant is not None else sizes[slot.key]
        count = tensor.numel()
        if slot.rows is not None:
            count = count // len(tensor) * (slot.rows[1] - slot.rows[0])
        total += count // block * packed if tensor.dim() > 1 else 4 * count
    return total
