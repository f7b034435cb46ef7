"""Writing a model that is stored in fp8 as a folder of plain weights.

Weights are float8 numbers times a scale of their block, or of the whole tensor, as DeepSeek's and
Qwen's fp8 models have them: W = W8 · s, with s under the name of W and "_scale_inv".
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..errors import InputError, short
from ..models.folders import INDEX, quantised, read_config, stored_tensors
from ..models.folders import weight_files as files_of
from ..models.loading import find_model, load_model
from ..progress import Progress, silent
from ..store.files import check_destination, replacing
from ..store.manifest import write_manifest
from .public import public_name

_FP8, _SCALE = ("F8_E4M3", "F8_E5M2"), "_scale_inv"
_FLOATS = ("F64", "F32", "F16", "BF16")
_NOT_WEIGHTS = (_SCALE, ".activation_scale", ".input_scale")
_TYPES = ("bfloat16", "float16", "float32")
_BESIDE = (".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True)
class Dequantised:
    """What was written: the folder, the type of its weights, and their sizes."""

    folder: str
    model_class: str
    dtype: str
    parameters: int
    bytes: int


def dequantise(
    name: str, folder: str | Path, *, dtype: str = "auto", progress: Progress | None = None
) -> Dequantised:
    """Write the fp8 model ``name`` to ``folder`` as plain weights of one type.

    ``dtype`` "auto": the type that its configuration names. Everything is written beside
    ``folder``, loaded to see that it is a model, and only then renamed into place. Raises
    InputError where the model is not stored in fp8, or the folder cannot be written; nothing is
    left behind.
    """
    target, report = check_destination(folder), progress or silent
    source = find_model(name, progress=progress).folder
    data = read_config(source, quantised_too=True)
    settings = _settings(name, data)
    to = _type(data, dtype)
    files = files_of(name, source)
    tensors = stored_tensors(name, files)
    kept = [key for key in tensors if not key.endswith(_NOT_WEIGHTS)]
    size = sum(tensors[key].size for key in kept) * to.itemsize
    with replacing(target, size=size) as unfinished:
        _copy_beside(source, unfinished, data, to)
        for index, file in enumerate(files):
            report(0.1 + 0.7 * index / len(files), f"Writing {file.name}")
            _write_shard(name, file, files, unfinished / file.relative_to(source), settings, to)
        report(0.8, "Reading it back")
        model, _ = load_model(str(unfinished), device="cpu", dtype=_word(to))
        facts = {
            "model_class": type(model).__name__,
            "parameters": sum(value.numel() for value in model.parameters()),
        }
        origin = {"base_model": public_name(name), "source": "", "export_format": "stock"}
        write_manifest(unfinished, facts | origin | {"max_logit_difference": 0.0})
    report(1.0, "Written")
    return Dequantised(folder=str(target), dtype=_word(to), bytes=size, **facts)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _settings(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fp8 settings in a configuration; raises InputError for other ways of storing less."""
    said = data.get("quantization_config")
    if not said:
        raise InputError(f"{name} is not quantised; there is nothing to do.")
    method = said.get("quant_method") if isinstance(said, dict) else said
    if method != "fp8":
        raise quantised(name, f"{short(method)}, and only fp8 can be written as plain weights")
    block = said.get("weight_block_size")
    whole = isinstance(block, list) and all(type(each) is int and each > 0 for each in block)
    if block is not None and not (whole and len(block) == 2):
        raise quantised(name, f"in blocks of {short(block)}, which are none")
    return said


def _type(data: Mapping[str, Any], dtype: str) -> torch.dtype:
    said = (data.get("dtype") or data.get("torch_dtype")) if dtype == "auto" else dtype
    if dtype == "auto" and said not in _TYPES:
        said = "bfloat16"
    if said not in _TYPES:
        raise InputError(f"There is no dtype {dtype!r}; there are auto, {', '.join(_TYPES)}.")
    return getattr(torch, said)


def _copy_beside(source: Path, target: Path, data: Mapping[str, Any], to: torch.dtype) -> None:
    """Copy the small files of the model, its configuration without what is quantised."""
    for file in sorted(source.iterdir()):
        if file.is_file() and (file.suffix in _BESIDE or file.name.startswith("LICENSE")):
            shutil.copyfile(file, target / file.name)
    plain = {key: value for key, value in data.items() if key != "quantization_config"}
    plain |= {"dtype": _word(to), "torch_dtype": _word(to)}
    (target / "config.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
    if (target / INDEX).is_file():
        index = json.loads((target / INDEX).read_text(encoding="utf-8"))
        named = index["weight_map"].items()
        kept = {key: file for key, file in named if not key.endswith(_NOT_WEIGHTS)}
        text = json.dumps({"metadata": {}, "weight_map": kept}, indent=2) + "\n"
        (target / INDEX).write_text(text, encoding="utf-8")


def _write_shard(
    name: str, file: Path, files: list[Path], target: Path, settings: dict, to: torch.dtype
) -> None:
    """Write the weights of one file as plain ones; a scale may lie in another of ``files``."""
    tensors, written = stored_tensors(name, [file]), {}
    with safe_open(file, framework="pt") as opened:
        for key, tensor in tensors.items():
            if key.endswith(_NOT_WEIGHTS):
                continue
            value = opened.get_tensor(key)
            if tensor.dtype in _FP8:
                scale = _scale(name, key, [file, *files])
                value = _plain(name, key, value, scale, settings.get("weight_block_size"))
            elif tensor.dtype not in _FLOATS:
                raise quantised(name, f"{short(key)} is of type {tensor.dtype}")
            written[key] = value.to(to).contiguous()
    target.parent.mkdir(parents=True, exist_ok=True)
    save_file(written, target, {"format": "pt"})


def _scale(name: str, key: str, files: list[Path]) -> Tensor:
    for file in files:
        with safe_open(file, framework="pt") as opened:
            if f"{key}{_SCALE}" in opened.keys():  # noqa: SIM118 - it is no mapping
                scale = opened.get_tensor(f"{key}{_SCALE}")
                if scale.is_floating_point():  # else it is an exponent, or packed
                    return scale.float()
    raise quantised(name, f"{short(key)} has no scale of numbers beside it")


def _plain(name: str, key: str, value: Tensor, scale: Tensor, block: list[int] | None) -> Tensor:
    """The weights (out, in) in float32, each times the scale of its block."""
    if scale.numel() == 1:
        return value.float() * scale.reshape(())
    rows, columns = block or (0, 0)
    fits = value.ndim == 2 and block is not None
    wanted = (-(-value.shape[0] // rows), -(-value.shape[1] // columns)) if fits else ()
    if tuple(scale.shape) != wanted:
        raise quantised(name, f"the scales of {short(key)} are not those of its blocks")
    spread = scale.repeat_interleave(rows, 0).repeat_interleave(columns, 1)
    return value.float() * spread[: value.shape[0], : value.shape[1]]
