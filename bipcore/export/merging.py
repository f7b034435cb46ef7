"""Merging a LoRA adapter that lies in a folder of its own into the model that it was made for."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn

from ..errors import InputError, reason_of
from ..models.adapters import Adapter
from ..models.folders import ADAPTER, StoredTensor, only, stored_tensors
from ..models.loading import load_config, load_model
from ..models.streaming import check_whole
from ..progress import Progress, silent
from ..recovery.lora import ADAPTER_WEIGHTS
from ..store.files import check_destination, replacing
from ..store.inputs import named_path, read_json, regular_file
from ..store.manifest import write_manifest
from .folder import write_folder
from .public import public_name
from .readback import compare


@dataclass(frozen=True)
class Merged:
    """What was written: the folder, its sizes, and the largest difference between the logits of
    the model in memory and of the folder read back."""

    folder: str
    base: str
    model_class: str
    parameters: int
    max_logit_difference: float


def adapters_base(adapter: str | Path) -> str:
    """The name of the model that the LoRA adapter in a folder says it was made for.

    Raises InputError where it is no such adapter, or does not say.
    """
    base = _read_settings(_folder(adapter)).get("base_model_name_or_path")
    if not base or not isinstance(base, str):
        raise InputError(
            f"{adapter} does not say which model it was made for; give it with --base."
        )
    return base


def merge_adapter(
    adapter: str | Path,
    base: str,
    folder: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Merged:
    """Write the model ``base`` with the LoRA adapter of the folder ``adapter`` merged into it.

    With ``dtype`` "auto" it is merged in float32 on the CPU, and written in the type that ``base``
    is stored in. Everything is written beside ``folder``, read back and compared, and only then
    renamed into place. Raises InputError where the adapter cannot be read or was made for another
    model, and where the folder cannot be written; nothing is left behind.
    """
    target, source = check_destination(folder), _folder(adapter)
    settings, report = _read_settings(source), progress or silent
    tensors = _check_tensors(source, settings)
    model, tokenizer = load_model(base, device=device, dtype=dtype, progress=progress)
    check_whole(model, "Merging an adapter")
    Adapter(model)
    report(0.7, "Merging")
    whole = _merged(model, source, tensors)
    if dtype == "auto" and isinstance(stored := load_config(base).dtype, torch.dtype):
        _set_type(whole, stored)
    facts = {
        "model_class": type(whole).__name__,
        "parameters": sum(value.numel() for value in whole.parameters()),
    }
    size = sum(value.numel() * value.element_size() for value in whole.parameters())
    with replacing(target, size=size) as unfinished:
        write_folder(whole, tokenizer, unfinished)
        report(0.9, "Reading it back")
        again, _ = load_model(str(unfinished), device="cpu", dtype=_name(whole.dtype))
        facts["max_logit_difference"] = compare(whole, whole, again)
        origin = {"base_model": public_name(base), "adapter": source.name}
        write_manifest(unfinished, facts | origin | {"source": "", "export_format": "stock"})
    report(1.0, "Merged")
    return Merged(folder=str(target), base=base, **facts)


def _set_type(model: nn.Module, dtype: torch.dtype) -> None:
    """Have the weights of ``model`` in another type; its buffers stay as they are computed."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    model.config.dtype = dtype


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _folder(adapter: str | Path) -> Path:
    folder = named_path(adapter, "The adapter")
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}; give the folder of a LoRA adapter.")
    return folder


def _read_settings(folder: Path) -> dict[str, Any]:
    """The settings of the adapter in ``folder``; raises InputError for what is none of LoRA."""
    said = read_json(folder / ADAPTER, "The adapter's configuration")
    kind = said.get("peft_type") if isinstance(said, dict) else None
    if kind != "LORA":
        raise InputError(f"{folder / ADAPTER} is not that of a LoRA adapter; give one of peft.")
    return said


def _check_tensors(folder: Path, settings: dict[str, Any]) -> dict[str, StoredTensor]:
    """The adapter's tensors by their headers; raises InputError for ranks that they do not have:
    as much memory would be taken as the settings say."""
    file = regular_file(folder / ADAPTER_WEIGHTS, "The adapter")
    tensors = stored_tensors(str(folder), [file])
    largest = max((length for each in tensors.values() for length in each.shape), default=0)
    pattern = settings.get("rank_pattern") or {}
    ranks = [settings.get("r"), *(pattern.values() if isinstance(pattern, dict) else [])]
    if not all(isinstance(rank, int) and 1 <= rank <= largest for rank in ranks):
        raise InputError(f"{folder / ADAPTER} says ranks that its weights do not have.")
    return tensors


def _merged(model: nn.Module, folder: Path, tensors: dict[str, StoredTensor]) -> nn.Module:
    """``model`` with the adapter in ``folder`` added to its weights."""
    from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    from peft import set_peft_model_state_dict as fill

    try:
        with warnings.catch_warnings(), only(folder, [ADAPTER, ADAPTER_WEIGHTS]) as seen:
            warnings.simplefilter("ignore")
            tuned = get_peft_model(model, LoraConfig.from_pretrained(seen))
            expected = get_peft_model_state_dict(tuned, save_embedding_layers=False)
            if {name: tuple(value.shape) for name, value in expected.items()} != {
                name: each.shape for name, each in tensors.items()
            }:
                raise InputError(f"The adapter in {folder} was made for another model.")
            fill(tuned, load_file(seen / ADAPTER_WEIGHTS))
            return tuned.merge_and_unload(safe_merge=True).eval()
    except InputError:
        raise
    except Exception as error:  # peft lets many kinds through
        raise InputError(f"The adapter in {folder} cannot be merged: {reason_of(error)}.") from None
