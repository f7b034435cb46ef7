"""Writing a streamed model, and reading it back: one part after the other, never all of it."""

import json
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.core_model_loading import revert_weight_conversion

from ..models.folders import INDEX, WEIGHTS, weight_files
from ..models.streamed_loading import stream_model
from ..models.streaming import named_parts, stream_of, tensors_of

_SHARD = 2**28
"""The bytes of a file, but for a tensor that is larger: what is held while it is written."""


def save_streamed(form: nn.Module, folder: Path) -> None:
    """`save_pretrained` of a streamed model: all but the weights by transformers, these in as many
    files as it takes to hold little of them at a time."""
    form.save_pretrained(folder, state_dict={})
    (folder / WEIGHTS).unlink(missing_ok=True)
    sizes = {name: p.numel() * p.element_size() for name, p in form.named_parameters()}
    shards = list(_shards(sizes))
    files = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [WEIGHTS]
    where = {key: file for file, keys in zip(files, shards, strict=True) for key in keys}
    held: dict[str, Tensor] = {}
    writing = files[0]
    for key, tensor in tensors_of(form):
        if key not in where:  # a head that is the embedding
            continue
        if where[key] != writing:
            save_file(held, folder / writing, {"format": "pt"})
            held.clear()
        writing = where[key]
        held[_stored_name(form, key)] = tensor.cpu().contiguous()
    save_file(held, folder / writing, {"format": "pt"})
    if len(shards) > 1:
        named = {_stored_name(form, key): file for key, file in where.items()}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": named}
        (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")


def _stored_name(form: nn.Module, key: str) -> str:
    """What the parameter ``key`` of ``form`` is called in files, by transformers' own renaming."""
    return next(iter(revert_weight_conversion(form, {key: torch.empty(0, device="meta")})))


def _shards(sizes: dict[str, int]) -> Iterator[list[str]]:
    """The tensors of each file, in their order."""
    keys: list[str] = []
    for key in sizes:
        if keys and sum(sizes[one] for one in keys) + sizes[key] > _SHARD:
            yield keys
            keys = []
        keys.append(key)
    yield keys


def read_streamed(folder: Path, form: nn.Module, build: Callable[[], nn.Module]) -> nn.Module:
    """The model that ``build`` makes, resting in the files of ``folder``, streamed as ``form``."""
    stream, name = stream_of(form), str(folder)
    how = {"device": str(stream.device), "dtype": stream.dtype, "budget": stream.budget}
    return stream_model(name, folder, weight_files(name, folder), build=build, **how)


def same_tensors(one: nn.Module, other: nn.Module) -> bool:
    """Whether two models, streamed or not, have the same weights, to the last bit."""
    if one.state_dict().keys() != other.state_dict().keys():
        return False
    with closing(tensors_of(one)) as ours, closing(tensors_of(other)) as theirs:
        pairs = zip(ours, theirs, strict=True)
        return all(a == b and torch.equal(x.cpu(), y.cpu()) for (a, x), (b, y) in pairs)


def move_places(model: nn.Module, other: nn.Module, named: Callable[[str], str]) -> None:
    """Let the parts of ``model`` rest where those of ``other`` do, under the names that ``named``
    gives theirs."""
    theirs = dict(named_parts(other))
    for path, part in named_parts(model):
        if named(path) in theirs:
            part.move(theirs[named(path)].places)
