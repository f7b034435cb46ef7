"""What a model folder is, told from its files before anything of it is loaded.

`read_config` reads config.json and refuses what cannot be used whatever the weights are.
`weight_files` and `stored_tensors` say which weights there are, from the headers alone, and
`check_fit` whether a model of that configuration can be made of them.
"""

import contextlib
import re
import shlex
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors
from torch import nn

from ..errors import InputError, reason_of, short
from ..store.inputs import MOST_TEXT, read_json, regular_file
from .families import TEXT_HALVES, check_supported

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
ADAPTER = "adapter_config.json"
_CONTENT = (".json", ".jinja", ".model", ".safetensors", ".txt")
_QUANTISED = ("quantization_config", "compression_config")
_QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
TYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
"""The types of numbers that weights are read in, by safetensors' words."""
_MOST_LAYERS = 1000
_ROOM = 2**20


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of a tensor: its type in safetensors' words ("F32") and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """The number of its elements."""
        count = 1
        for length in self.shape:
            count *= length
        return count


def read_config(folder: Path, *, quantised_too: bool = False) -> dict[str, Any]:
    """The object in config.json of ``folder``, of a model that is supported and not quantised.

    Raises InputError for anything else, and for files that are none: devices, links to nothing.
    """
    file = folder / "config.json"
    if not _is_there(file):
        raise _no_config(folder)
    _check_files(folder)
    data = read_json(file, "The configuration")
    if not isinstance(data, dict) or not isinstance(data.get("model_type"), str):
        raise InputError(f"{short(file)} names no model_type; give the folder of a causal model.")
    if not quantised_too:
        _check_unquantised(folder, data)
    _check_supported(data)
    _check_layers(file, text_half(data))
    return data


def text_half(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """What a configuration says of the language model: of one that reads pictures, too, the part
    that reads text."""
    if data.get("model_type") not in TEXT_HALVES:
        return data
    half = data.get("text_config")
    return half if isinstance(half, dict) else {}


def has_adapter(folder: Path) -> bool:
    """Whether a LoRA adapter lies in ``folder``."""
    return _is_there(folder / ADAPTER)


def _is_there(path: Path) -> bool:
    """Whether there is something at ``path``, if only a link to nothing."""
    return path.is_symlink() or path.exists()


def _no_config(folder: Path) -> InputError:
    if not has_adapter(folder):
        return InputError(f"{folder} has no config.json; give the folder of a transformers model.")
    said = read_json(folder / ADAPTER, "The adapter's configuration")
    base = said.get("base_model_name_or_path") if isinstance(said, dict) else None
    named = shlex.quote(short(base)) if base and isinstance(base, str) else "MODEL"
    where = short(folder)
    return InputError(
        f"{where} is an adapter and no model; merge it into the model that it was made for: "
        f"bipcore merge {shlex.quote(where)} --base {named} --output FOLDER."
    )


def _check_files(folder: Path) -> None:
    """Raise InputError where a file that may be read is none, or, weights apart, too large."""
    templates = folder / "additional_chat_templates"
    for file in sorted([*folder.iterdir(), *templates.glob("*")]):
        if file.suffix in _CONTENT and not file.is_dir():
            size = regular_file(file, "The model's file").stat().st_size
            if file.suffix != ".safetensors" and size > MOST_TEXT:
                raise InputError(
                    f"The model's file {short(file)} has {size / 2**20:,.0f} MiB, and "
                    f"{MOST_TEXT / 2**20:,.0f} MiB are the most that is read."
                )


def _check_unquantised(folder: Path, data: Mapping[str, Any]) -> None:
    for place in (data, text_half(data)):
        for field in _QUANTISED:
            if place.get(field) is not None:
                said = place[field].get("quant_method") if isinstance(place[field], dict) else None
                raise quantised(folder, short(said or field), fp8=said == "fp8")
    for name in _QUANTISED_FILES:
        if _is_there(folder / name):
            raise quantised(folder, name)


def quantised(name: object, why: str, *, fp8: bool = False) -> InputError:
    """The refusal of a model that is stored in fewer bits, with what says so.

    ``fp8``: it may be one that the command dequantise can write as plain weights.
    """
    said = short(name)
    way = f", or make it: bipcore dequantise {shlex.quote(said)} --output FOLDER" if fp8 else ""
    return InputError(f"{said} is quantised ({why}); give the unquantised model{way}.")


def _check_supported(data: Mapping[str, Any]) -> None:
    kind = data["model_type"]
    half = data.get("text_config")
    if isinstance(half, dict) and kind not in TEXT_HALVES:
        raise InputError(
            f"The architecture {short(kind)!r} reads more than text, and is not supported; give "
            f"its language model ({short(half.get('model_type', 'text_config'))}) as a folder of "
            "its own."
        )
    if kind in TEXT_HALVES:
        kind = text_half(data).get("model_type", TEXT_HALVES[kind][0])
    check_supported(kind)


def _check_layers(file: Path, data: Mapping[str, Any]) -> None:
    layers = data.get("num_hidden_layers", 1)
    whole = isinstance(layers, int) and not isinstance(layers, bool)
    if not whole or not 1 <= layers <= _MOST_LAYERS:
        raise InputError(
            f"{short(file)} says {short(repr(layers), 40)} layers; it is a whole number from 1 to "
            f"{_MOST_LAYERS:,}."
        )


def weight_files(name: str, folder: Path) -> list[Path]:
    """The safetensors files that make up the model in ``folder``, shards in the index's order.

    Raises InputError, calling the model ``name``, where there are none, or one that the index
    names is missing, is no file, or lies outside of the folder.
    """
    if _is_there(folder / WEIGHTS):
        return [regular_file(folder / WEIGHTS, "The weights")]
    if _is_there(folder / INDEX):
        return [regular_file(folder / shard, "The weights") for shard in _shards(folder / INDEX)]
    raise InputError(
        f"{short(name)} has no safetensors weights (pickled weights are not loaded): neither "
        f"{WEIGHTS} nor {INDEX}; convert it, or give a revision that has them as name@revision."
    )


def _shards(index: Path) -> list[str]:
    said = read_json(index, "The index of the weights")
    named = said.get("weight_map") if isinstance(said, dict) else None
    if not isinstance(named, dict) or not named:
        raise InputError(
            f"{short(index)} has no weight_map that says which tensor is in which file."
        )
    shards = list(dict.fromkeys(map(str, named.values())))
    for shard in shards:
        path = PurePosixPath(shard)
        if path.is_absolute() or ".." in path.parts or path.suffix != ".safetensors":
            raise InputError(
                f"{short(index)} names {short(shard)!r}, which is no safetensors file in its own "
                "folder."
            )
    return shards


def stored_tensors(name: str, files: Iterable[Path]) -> dict[str, StoredTensor]:
    """What the headers of safetensors files say, by the tensors' names.

    Raises InputError, calling the model ``name``, where a file is damaged or cut off.
    """
    found = {}
    for file in files:
        try:
            with safetensors.safe_open(file, framework="pt") as opened:
                for key in opened.keys():  # noqa: SIM118 - it is no mapping
                    part = opened.get_slice(key)
                    found[key] = StoredTensor(part.get_dtype(), tuple(part.get_shape()))
        except (safetensors.SafetensorError, OSError) as error:
            raise InputError(
                f"The weights of {short(name)} are damaged: {reason_of(error)}."
            ) from None
    return found


def check_blocks(name: str, tensors: Iterable[str], blocks: str, layers: int) -> None:
    """Raise InputError where the tensors' names are not those of ``layers`` decoder blocks under
    the path ``blocks``."""
    head, _, tail = blocks.partition(".")
    place = re.compile(rf"(?:{re.escape(head)}\.)?{re.escape(tail)}\.(\d{{1,9}})\.")
    numbers = {int(found[1]) for key in tensors if (found := place.match(key))}
    if max(numbers, default=-1) + 1 != layers:
        raise InputError(
            f"The weights of {short(name)} do not fit its config.json: it says {layers:,} layers, "
            f"and they have {max(numbers, default=-1) + 1:,}."
        )


def check_fit(name: str, tensors: Mapping[str, StoredTensor], model: nn.Module) -> None:
    """Raise InputError where ``model``, which may be empty, cannot be made of ``tensors``.

    They are of other shapes, of a type that is none of floats, far too few, or belong to its
    layers but have no place there, as a bias that the configuration turns off, or an adapter.
    """
    shapes = {key: tuple(value.shape) for key, value in model.named_parameters()}
    layers = {key.rpartition(".")[0] for key in shapes}
    head = f"{model.base_model_prefix}."
    others, extra = [], []
    for key, tensor in tensors.items():
        names = (key, head + key, key.removeprefix(head))
        own = next((each for each in names if each in shapes), None)
        inside = any(not layers.isdisjoint(_above(each)) for each in names)
        if inside and tensor.dtype not in TYPES:
            raise quantised(name, f"{short(key)} is of type {tensor.dtype}")
        if own and shapes[own] != tensor.shape:
            others.append(own)
        elif inside and not own:
            extra.append(key)
    if others:
        raise misfit(name, others, "of other sizes")
    if extra:
        raise misfit(name, extra, "without a place in it")
    wanted = sum(parameter.numel() for parameter in model.parameters())
    if wanted > 2 * sum(tensor.size for tensor in tensors.values()) + _ROOM:
        raise misfit(name, set(shapes) - set(tensors) or shapes, "missing")


def _above(key: str) -> Iterator[str]:
    """The names of the modules that the tensor ``key`` lies in."""
    while key := key.rpartition(".")[0]:
        yield key


def misfit(name: str, tensors: Iterable[str], problem: str) -> InputError:
    """The refusal of weights of which ``tensors`` are not what the configuration says."""
    found = sorted(tensors)
    are = "1 tensor is" if len(found) == 1 else f"{len(found):,} tensors are"
    return InputError(
        f"The weights of {short(name)} do not fit its config.json: {are} {problem}, "
        f"{short(found[0])} among them."
    )


@contextlib.contextmanager
def only(folder: Path, files: Iterable[str]) -> Iterator[Path]:
    """A folder that shows of ``folder`` these files alone, by links; what else lies there, an
    adapter for instance, is not seen by who reads it. It is gone when the block is left."""
    with tempfile.TemporaryDirectory(prefix="bipcore-") as seen:
        for name in files:
            if (folder / name).exists():
                link = Path(seen, name)
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to((folder / name).resolve())
        yield Path(seen)
