"""Whether an entry of the run store is what was written: nothing in it is believed unchecked."""

import json
import os
from pathlib import Path
from typing import Any

from ..errors import InputError, reason_of, short
from .content import sha256
from .inputs import read_json
from .kinds import Kind, canonical, digest

SPEC = "spec.json"


class Damaged(Exception):
    """An entry is not what was written; the message says why, in a few words."""


def write_manifest(folder: Path, kind: Kind, spec: Any) -> None:
    """Write down what the files of a new entry are."""
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in sorted(_files_in(folder))
    }
    facts = {"kind": kind.name, "version": kind.version, "spec": canonical(spec), "files": files}
    (folder / SPEC).write_text(json.dumps(facts, indent=1))


def spec_of(folder: Path) -> Any:
    """The spec of the entry ``folder``, its files unread. Raises Damaged."""
    return _manifest(folder)["spec"]


def check_entry(folder: Path) -> None:
    """Raise Damaged where the entry ``folder`` is not, to the last bit, what was written there."""
    files = _manifest(folder)["files"]
    try:
        present = _files_in(folder)
        if strange := sorted(present - files.keys()):
            raise Damaged(f"{short(strange[0])} was not written with it")
        for name, said in files.items():
            if name not in present:
                raise Damaged(f"{short(name)} is missing")
            if (folder / name).stat().st_size != said["size"]:
                raise Damaged(f"{name} is truncated, or longer")
            if said["sha256"] is None:
                raise Damaged(f"{name} has no checksum, as versions before this one wrote it")
            if sha256(folder / name) != said["sha256"]:
                raise Damaged(f"{name} has changed")
    except OSError as error:
        raise Damaged(f"it cannot be read: {reason_of(error)}") from None
    except (KeyError, TypeError):
        raise Damaged(f"{SPEC} is not as it was written") from None


def _manifest(folder: Path) -> dict:
    """What `write_manifest` wrote. Raises Damaged where that is of another entry, too."""
    try:
        manifest = read_json(folder / SPEC, SPEC)
        made = digest(manifest["spec"], version=manifest["version"])
        kind = manifest.get("kind", folder.parent.name)
        files = manifest["files"]
    except InputError:
        raise Damaged(f"{SPEC} cannot be read") from None
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{SPEC} is not as it was written") from None
    if (kind, made) != (folder.parent.name, folder.name):
        raise Damaged("it is another result")
    if not isinstance(files, dict) or not files:
        raise Damaged(f"{SPEC} names no files")
    return manifest


def _files_in(folder: Path) -> set[str]:
    """Everything below ``folder`` but its folders and its manifest. Raises OSError."""
    found = set()
    for root, folders, names in os.walk(folder, onerror=_raise):
        links = [name for name in folders if os.path.islink(os.path.join(root, name))]
        found |= {os.path.relpath(os.path.join(root, name), folder) for name in (*names, *links)}
    return found - {SPEC}


def _raise(error: OSError) -> None:
    raise error
