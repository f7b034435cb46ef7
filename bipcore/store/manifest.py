"""The manifest of an export: what it is, and the size and SHA-256 of every file in it."""

import json
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

from ..errors import reason_of
from .content import sha256
from .files import MANIFEST, MANIFEST_FORMAT, read_manifest
from .kinds import digest


def checksums(folder: Path) -> dict[str, str]:
    """The SHA-256 of every file in ``folder``. Raises OSError."""
    names = sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())
    return {name: sha256(folder / name) for name in names}


def write_manifest(
    folder: Path,
    facts: dict[str, Any],
    sums: dict[str, str] | None = None,
    name: str = MANIFEST,
) -> None:
    """Write down what the export in ``folder`` is, in the file ``name`` there; ``sums`` are its
    `checksums`, where they have been taken. Raises OSError."""
    sums = checksums(folder) if sums is None else sums
    manifest = {
        "format": MANIFEST_FORMAT,
        **facts,
        "files": {file: (folder / file).stat().st_size for file in sums},
        "sha256": sums,
    }
    manifest["digest"] = digest(manifest)
    (folder / name).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def has_checksums(manifest: dict) -> bool:
    """Whether a manifest says of all files what is in them: versions before this one said how
    long they are."""
    sums = manifest.get("sha256")
    return isinstance(sums, dict) and sums.keys() == manifest["files"].keys()


def changed(folder: Path, name: str = MANIFEST) -> str | None:
    """What is not as it was written in the export in ``folder`` with the manifest ``name``, in a
    few words; None if all is."""
    manifest = read_manifest(folder, name)
    if not manifest:
        return f"there is no {name}"
    if "digest" in manifest and digest(_without_digest(manifest)) != manifest["digest"]:
        return f"{name} is not as it was written"
    return _changed_of(folder, manifest, manifest["files"])


def changed_file(
    folder: Path, names: Container[str], take: Callable[[Path], str | None] = sha256
) -> str | None:
    """The same of the files ``names`` alone; None, too, where no manifest says what was in them.
    ``take`` gives the SHA-256 of a file."""
    return _changed_of(folder, read_manifest(folder), names, take)


def _changed_of(
    folder: Path, manifest: dict, names: Container[str], take: Callable[[Path], str | None] = sha256
) -> str | None:
    sums = manifest["sha256"] if manifest and has_checksums(manifest) else {}
    for name, taken in sums.items():
        try:
            if name in names and take(folder / name) != taken:
                return f"{name} is not as it was written"
        except OSError as error:
            return f"{name} cannot be read: {reason_of(error)}"
    return None


def _without_digest(manifest: dict) -> dict:
    return {name: value for name, value in manifest.items() if name != "digest"}
