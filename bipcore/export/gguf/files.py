"""Writing a model as a GGUF file, and reading it back: one tensor after the other."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import InputError
from ...pruning.slicing import shallow_clone
from .architectures import Architecture
from .keys import Key
from .kinds import Kind, unpacked
from .tensors import Slot, slots_of


def write_file(
    file: Path, form: nn.Module, keys: Iterable[Key], architecture: Architecture, kind: Kind
) -> None:
    """Write the tensors of ``form`` and the ``keys``. Raises OSError, and InputError where the keys
    that are read back are not those."""
    import gguf

    slots, parameters = list(slots_of(form, architecture)), dict(form.named_parameters())
    writer, said = gguf.GGUFWriter(file, architecture.name), list(keys)
    try:
        for name, type, value in said:
            getattr(writer, f"add_{type}")(name, value)
        for slot in slots:
            shape = _values(slot, parameters, on="meta").shape
            type = _type(len(shape), kind)
            block, packed = gguf.GGML_QUANT_SIZES[type]
            size = shape.numel() // block * packed
            writer.add_tensor_info(slot.name, shape, np.dtype(np.float32), size, raw_dtype=type)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for slot in slots:
            writer.write_tensor_data(_packed(_values(slot, parameters, on="cpu"), kind))
    finally:
        writer.close()
    _check_keys(file, architecture, said)


def _values(slot: Slot, parameters: Mapping[str, Tensor], *, on: str) -> Tensor:
    """What is written of a tensor, on a device."""
    if slot.constant is not None:
        return slot.constant.to(on)
    return slot.from_model(parameters[slot.key].detach().to(on))


def _type(dimensions: int, kind: Kind) -> Any:
    """What a tensor is written in: vectors, which are small, in float32."""
    import gguf

    return kind.type if dimensions > 1 else gguf.GGMLQuantizationType.F32


def _packed(values: Tensor, kind: Kind) -> np.ndarray:
    return kind.packed(values) if values.dim() > 1 else values.float().contiguous().numpy()


def _check_keys(file: Path, architecture: Architecture, said: Sequence[Key]) -> None:
    """Raise InputError where the keys in ``file`` are not those ``said``."""
    import gguf

    fields = gguf.GGUFReader(file).fields
    found = {name: field.contents() for name, field in fields.items() if name[:4] != "GGUF"}
    expected = {name: _as_stored(type, value) for name, type, value in said}
    if found != expected | {"general.architecture": architecture.name}:
        raise InputError("The export was not kept: its keys, read back, are not those written.")


def _as_stored(type: str, value: Any) -> Any:
    """What a key gives back: numbers with a point have 32 bits."""
    if type == "array" and isinstance(value[0], float):
        return np.array(value, dtype=np.float32).tolist()
    return float(np.float32(value)) if type == "float32" else value


@torch.no_grad()
def read_file(file: Path, form: nn.Module, architecture: Architecture) -> nn.Module:
    """A copy of ``form`` with the weights that ``file`` has. Raises InputError where it does not
    have the tensors of it and no others."""
    import gguf

    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file).tensors}
    again = shallow_clone(form)
    slots = list(slots_of(again, architecture))
    if sorted(tensors) != sorted(slot.name for slot in slots):
        raise InputError("The export was not kept: its tensors, read back, are not those written.")
    parameters = dict(again.named_parameters())
    for key in {slot.key for slot in slots} - {""}:
        parameters[key].data = torch.full_like(parameters[key].data, torch.nan)
    for slot in slots:
        found = tensors[slot.name]
        values = unpacked(found.data, found.tensor_type)
        if slot.constant is None:
            slot.into_model(values.to(parameters[slot.key].device), parameters[slot.key])
        elif not torch.equal(values, slot.constant):
            raise InputError(
                f"The export was not kept: its {slot.name}, read back, is not what was written."
            )
    return again
