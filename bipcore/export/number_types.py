"""The type of number that weights are written in, and what they were stored in before."""

import re
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models.adapters import Adapter
from ..models.extremes import is_finite
from ..models.folders import TYPES, stored_tensors, weight_files
from ..models.loading import check_save_dtype
from ..models.streaming import is_streamed, recast, tensors_of
from ..pruning.slicing import shallow_clone

_SMALL_FILES = (".jinja", ".json", ".model", ".txt")


@dataclass(frozen=True)
class Checkpoint:
    """How a model lies on the disk: the type of most of the weights of its blocks, the bytes of its
    weights, and of all its files."""

    dtype: str
    weights: int
    bytes: int


def read_checkpoint(name: str, folder: Path, blocks: str) -> Checkpoint:
    """That of the model ``name`` in ``folder``, whose blocks lie under the path ``blocks``; only
    headers are read. Raises InputError."""
    files = weight_files(name, folder)
    counts: Counter[str] = Counter()
    inside = re.compile(rf"(?:^|\.){re.escape(blocks.partition('.')[2])}\.\d+\.")
    tensors = stored_tensors(name, files)
    for key, tensor in tensors.items():
        counts[TYPES.get(tensor.dtype, tensor.dtype)] += tensor.size if inside.search(key) else 0
    weights = sum(file.stat().st_size for file in files)
    others = [file for file in folder.iterdir() if file.suffix in _SMALL_FILES and file.is_file()]
    total = weights + sum(file.stat().st_size for file in others)
    return Checkpoint(counts.most_common(1)[0][0], weights, total)


def type_to_write(wanted: str, model: nn.Module, stored: Checkpoint | None) -> torch.dtype:
    """The type that ``wanted`` stands for: with "auto" that of the checkpoint where ``model`` was
    loaded in a wider one, else that of ``model``. Raises InputError for an unknown one."""
    check_save_dtype(wanted)
    held = Adapter(model).blocks[0].o.weight.dtype
    if wanted != "auto":
        return getattr(torch, wanted)
    own = getattr(torch, stored.dtype) if stored and stored.dtype in TYPES.values() else held
    return own if own.itemsize < held.itemsize else held


@dataclass(frozen=True)
class Written:
    """A model as its weights are written: ``form``, its parameters rounded; the name of their
    ``type``, the ``bytes`` that they take in the files, and whether a weight is another number for
    it (``rounded``)."""

    form: nn.Module
    type: str
    bytes: int
    rounded: bool


def as_one_type(model: nn.Module, dtype: torch.dtype) -> Written:
    """``model`` with all of its parameters in ``dtype``. Raises InputError as `in_type`."""
    form = in_type(model, dtype)
    size = sum(p.numel() * p.element_size() for p in form.parameters())
    return Written(form, name_of(dtype), size, _loses(model, dtype))


def in_type(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """``model``, or a copy with its parameters rounded to ``dtype``; buffers, which no checkpoint
    has, stay as they are. Raises InputError where a number is too large for it."""
    if all(parameter.dtype == dtype for parameter in model.parameters()):
        return model
    return rounded_by(model, lambda name, weight: weight.to(dtype), dtype)


def rounded_by(
    model: nn.Module, rounding: Callable[[str, Tensor], Tensor], dtype: torch.dtype
) -> nn.Module:
    """A copy of ``model`` with ``rounding(name, weight)`` for its parameters, for most of them to
    ``dtype``; parts that rest are read in that. Raises InputError where a number becomes too
    large."""
    cast = shallow_clone(model)
    if is_streamed(cast):
        recast(cast, dtype)
    for name, parameter in cast.named_parameters():
        if parameter.is_meta:
            continue  # looked at when it is read
        rounded = rounding(name, parameter.data)
        if not is_finite(rounded) and is_finite(parameter.data):
            raise InputError(
                f"The weights {name} have numbers too large for {name_of(dtype)}; write them in "
                "another type."
            )
        parameter.data = rounded
    return cast


def name_of(dtype: torch.dtype) -> str:
    """The name of a type, as options and configurations have it."""
    return str(dtype).removeprefix("torch.")


def disk_rows(before: Checkpoint | None, written: Written) -> dict[str, tuple[str, str]]:
    """How the weights lie on the disk, as the checkpoint and as ``written``: rows of the card."""
    after = written.type + (", rounded after it was measured" if written.rounded else "")
    return {
        "Number type": (before.dtype if before else "-", after),
        "Weights on the disk": (
            _mebibytes(before.weights) if before else "-",
            _mebibytes(written.bytes),
        ),
    }


def _loses(model: nn.Module, dtype: torch.dtype) -> bool:
    """Whether a weight of ``model`` is another number in ``dtype``; those of a checkpoint in that
    type, only cut, are not."""
    with closing(tensors_of(model)) as tensors:
        weights = (w for _, w in tensors if w.is_floating_point() and w.dtype != dtype)
        return any(not torch.equal(weight.to(dtype).to(weight.dtype), weight) for weight in weights)


def _mebibytes(size: int) -> str:
    return f"{size / 2**20:,.1f} MiB"
