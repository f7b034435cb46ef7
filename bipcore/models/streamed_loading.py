"""Making a model whose parts rest in the files of its folder (see `streaming`)."""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import safetensors
import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from transformers import GenerationConfig

from ..errors import InputError, short
from ..store.roots import mark
from ..store.runs import cache_root
from .families import STORED_NAMES, family_of
from .folders import misfit
from .memory import free_on, read_size
from .streaming import Place, Stream, rest

_SHARE = 0.75
"""The share of the budget that weights may take; the rest is for what is computed with them."""


def budget_of(memory: str, device: str) -> int:
    """The bytes that ``memory`` allows on ``device``: "auto" is what is free there.

    Over several GPUs ("spread") it is what is free on all of them.
    """
    said = read_size(memory)
    return free_on(device) if said is None else said


def fits(size: int, budget: int) -> bool:
    """Whether weights of ``size`` bytes may be held in memory as a whole."""
    return size <= _SHARE * budget


def stream_model(
    name: str,
    folder: Path,
    files: list[Path],
    *,
    build: Callable[[], nn.Module],
    device: str,
    dtype: torch.dtype,
    budget: int,
) -> nn.Module:
    """The model that ``build`` makes, called ``name``, resting in the safetensors ``files`` of
    ``folder``; what is in no part of it is in memory.

    Raises InputError where weights are missing, or the ``budget`` is below the largest part.
    """
    with init_empty_weights(include_buffers=False):
        model = build()
    place = torch.device("cuda" if device == "spread" else device)
    for parameter in model.parameters():  # buffers keep their type, as in `from_pretrained`
        parameter.data = parameter.data.to(dtype)
    places = _places(name, model, files)
    _tie_as_stored(model, places, dtype)
    parts = list(_parts(model))
    sizes = {id(module): _size(module, dtype) for _, module in parts}
    largest = max(sizes.values())
    if largest > _SHARE * budget:
        raise InputError(
            f"The memory of {budget / 2**20:,.0f} MiB is too little for the largest part of "
            f"{short(name)}, which takes {largest / 2**20:,.0f} MiB; allow at least "
            f"{largest / _SHARE / 2**20:,.0f} MiB."
        )
    block = max(sizes[id(module)] for _, module in parts[1 : 1 + model.config.num_hidden_layers])
    room = cache_root()
    mark(room)
    stream = Stream(place, dtype, budget, ahead=2 * block <= _SHARE * budget, room=room)
    inside = set()
    for path, module in parts:
        own = {key: f"{path}.{key}" for key, _ in module.named_parameters()}
        inside |= set(own.values())
        rest(module, stream, {key: places[full] for key, full in own.items()})
    _bring_in(model, stream, {key: at for key, at in places.items() if key not in inside})
    model.generation_config = _generation_config(model, folder)
    return model


def _places(name: str, model: nn.Module, files: list[Path]) -> dict[str, Place]:
    """Where each parameter of ``model``, by its name, lies; of tied ones one may."""
    stored: dict[str, Place] = {}
    head = f"{model.base_model_prefix}."
    wanted = {key for key, _ in model.named_parameters(remove_duplicate=False)}
    for file in files:
        with safetensors.safe_open(file, framework="pt") as opened:
            for key in opened.keys():  # noqa: SIM118 - it is no mapping
                names = [re.sub(was, now, key) for was, now in STORED_NAMES.items()]
                names += [key, head + key, key.removeprefix(head)]
                stored |= {name: Place(file, key) for name in names if name in wanted}
    tied = _tied(model)
    stored |= {key: stored[other] for key, other in tied.items() if key not in stored}
    if missing := wanted - stored.keys():
        raise misfit(name, missing, "missing")
    return stored


def _tied(model: nn.Module) -> Mapping[str, str]:
    """The names of the head and of the embedding where the configuration ties them."""
    model.tie_weights()
    names = {id(module): path for path, module in model.named_modules()}
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is not embedding.weight:
        return {}
    return {f"{names[id(head)]}.weight": f"{names[id(embedding)]}.weight"}


def _tie_as_stored(model: nn.Module, places: Mapping[str, Place], dtype: torch.dtype) -> None:
    """Part head and embedding where the files have both and they differ, whatever is said."""
    for head, embedding in _tied(model).items():
        one, other = places[head], places[embedding]
        if one is not other and not torch.equal(_read(one, dtype), _read(other, dtype)):
            module = model.get_output_embeddings()
            module.weight = nn.Parameter(torch.empty_like(module.weight), requires_grad=False)


def _read(place: Place, dtype: torch.dtype) -> Tensor:
    with safetensors.safe_open(place.file, framework="pt") as opened:
        return opened.get_tensor(place.key).to(dtype)


def _parts(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The parts of a model and their paths: embedding, decoder blocks, head."""
    paths = {module: path for path, module in model.named_modules()}
    blocks = model.get_submodule(family_of(model.config).blocks)
    for module in (model.get_input_embeddings(), *blocks, model.get_output_embeddings()):
        yield paths[module], module


def _size(module: nn.Module, dtype: torch.dtype) -> int:
    return sum(parameter.numel() for parameter in module.parameters()) * dtype.itemsize


def _bring_in(model: nn.Module, stream: Stream, places: Mapping[str, Place]) -> None:
    """Read what is in no part of ``model``, and move its buffers where it runs."""
    for key, tensor in stream.read(places).items():
        owner, _, last = key.rpartition(".")
        parameter = nn.Parameter(tensor.to(stream.device), requires_grad=False)
        setattr(model.get_submodule(owner), last, parameter)
    for path, buffer in list(model.named_buffers()):
        owner, _, last = path.rpartition(".")
        model.get_submodule(owner)._buffers[last] = buffer.to(stream.device)


def _generation_config(model: nn.Module, folder: Path) -> GenerationConfig:
    """What the folder says of generation, as `from_pretrained` takes it."""
    if (folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(folder, local_files_only=True)
    return GenerationConfig.from_model_config(model.config)
