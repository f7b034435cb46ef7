"""Calls to the Hugging Face hub: quick to fail where there is no network, and in one sentence."""

import contextlib
import logging
import os
import socket
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlparse

from .errors import InputError, reason_of
from .store.inputs import read_json

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

_BESIDE = ("*.json", "*.model", "*.txt", "*.jinja", "README.md", "LICENSE*")
"""What is fetched of a model beside its weights."""

_WEIGHTS = "model.safetensors"
_INDEX = f"{_WEIGHTS}.index.json"
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")


def hub_call(call: Callable, advice: Callable[[str], str]):
    """``call()``, or InputError(``advice(reason)``) when it fails.

    The host is looked up first: the hub library itself retries for half a minute.
    """
    if reason := _unreachable():
        raise InputError(advice(reason))
    try:
        return call()
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(advice(reason_of(error))) from None


def _unreachable() -> str | None:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "offline mode is set"
    if any(os.environ.get(name) for name in _PROXIES):
        return None
    host = urlparse(constants.ENDPOINT).hostname or "huggingface.co"
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return f"{host} cannot be reached"
    return None


def model_folder(name: str) -> Path:
    """The local folder of the hub model ``name`` (``owner/name`` or ``owner/name@revision``).

    What is already in the hub's cache is used as it is, without a network call; otherwise the
    configuration, the tokenizer and the safetensors weights are downloaded: those that make up the
    model, and not what else a repository holds of them. Raises InputError.
    """
    from huggingface_hub import snapshot_download

    repo, revision = parse_id(name)
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    with contextlib.suppress(OSError):
        folder = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        if has_weights(folder):
            return folder

    def fetch() -> Path:
        folder = Path(snapshot_download(repo, revision=revision, allow_patterns=list(_BESIDE)))
        wanted = sorted(named_weights(folder))
        return Path(snapshot_download(repo, revision=folder.name, allow_patterns=wanted))

    return hub_call(
        fetch,
        lambda reason: (
            f"The model {name!r} is not a local folder and could not be had from the hub "
            f"({reason}); check the name and the network, or give a folder or 'demo'."
        ),
    )


def parse_id(name: str) -> tuple[str, str | None]:
    """The repository and the revision (None: the main one) of a hub id; raises InputError."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    repo, _, revision = name.partition("@")
    try:
        validate_repo_id(repo)
    except HFValidationError:
        raise InputError(
            f"{name!r} is neither a folder that exists nor a hub model id such as owner/name; "
            "'demo' is the demo model."
        ) from None
    return repo, revision or None


def cached_commit(name: str) -> str | None:
    """The commit of the hub model ``name`` in the local cache; None where it is not there."""
    from huggingface_hub import try_to_load_from_cache

    try:
        repo, revision = parse_id(name)
    except InputError:
        return None
    file = try_to_load_from_cache(repo, "config.json", revision=revision)
    return Path(file).parent.name if isinstance(file, str) else None


def has_weights(folder: Path) -> bool:
    """Whether ``folder`` has a configuration and all the safetensors files that make up a model."""
    files = ("config.json", *named_weights(folder))
    return all((folder / name).is_file() for name in files)


def named_weights(folder: Path) -> set[str]:
    """The safetensors files that make up the model in ``folder``, here or not: those that its
    index names, else the one."""
    if (folder / _WEIGHTS).exists() or not (folder / _INDEX).is_file():
        return {_WEIGHTS}
    try:
        named = set(read_json(folder / _INDEX, "The index")["weight_map"].values())
    except (InputError, KeyError, AttributeError, TypeError):
        return {_WEIGHTS}
    return {name for name in named if isinstance(name, str)} or {_WEIGHTS}
