"""Whether an entry of the run store is what was written: nothing in it is believed unchecked."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, reason_of, short
from .content import sha256
from .inputs import parse_json, read_json, regular_file
from .kinds import Kind, canonical, digest

SPEC = "spec.json"
DATA = "data.json"
MOST_DATA = 2**22
"""Bytes of plain data that are read for a list: a plan of a large model is about 2 MiB."""


class Damaged(Exception):
    """An entry is not what was written; the message says why, in a few words."""


@dataclass(frozen=True)
class Glance:
    """What the manifest of an entry and the names and sizes of its files say, all else unread.

    ``manifest`` is None where that is damaged. ``fault``: why the entry is not what was written, in
    a few words; empty where nothing is seen that is wrong. ``size`` in bytes.
    """

    manifest: dict | None
    size: int
    fault: str


def write_manifest(folder: Path, kind: Kind, spec: Any, made: Mapping[str, Any]) -> None:
    """Write down what the files of a new entry are, and how they were ``made``: plain data that no
    result depends on."""
    files = {
        name: {"size": (folder / name).stat().st_size, "sha256": sha256(folder / name)}
        for name in sorted(_files_in(folder))
    }
    facts = {"kind": kind.name, "version": kind.version, "spec": canonical(spec), "files": files}
    facts |= {"made": canonical(made), "made_digest": digest(made)}
    (folder / SPEC).write_text(json.dumps(facts, indent=1))


def glance(folder: Path) -> Glance:
    """A look at the entry ``folder``. Raises OSError where it cannot be listed."""
    sizes = dict(_sizes(os.fspath(folder)))
    size = sum(max(one, 0) for one in sizes.values())
    try:
        manifest = _manifest(folder)
    except Damaged as damage:
        return Glance(None, size, str(damage))
    del sizes[SPEC]
    try:
        _check_sizes(manifest["files"], sizes)
        fault = ""
    except Damaged as damage:
        fault = str(damage)
    return Glance(manifest, size, fault)


def plain_data(folder: Path, files: Mapping[str, Any]) -> dict:
    """The plain data of an entry of these ``files``, checked; its tensors are left unread. Empty
    where it has none, or more than `MOST_DATA` bytes of it. Raises Damaged."""
    said = files.get(DATA)
    if said is None or said["size"] > MOST_DATA:
        return {}
    try:
        content = regular_file(folder / DATA, "The data").read_bytes()
        if hashlib.sha256(content).hexdigest() != said["sha256"]:
            raise Damaged(f"{DATA} has changed")
        data = parse_json(content.decode(), DATA)
    except (OSError, ValueError) as error:  # InputError is one
        raise Damaged(f"{DATA} cannot be read: {reason_of(error)}") from None
    return data if isinstance(data, dict) else {}


def check_entry(folder: Path) -> None:
    """Raise Damaged where the entry ``folder`` is not, to the last bit, what was written there."""
    files = _manifest(folder)["files"]
    try:
        present = dict(_sizes(os.fspath(folder)))
        del present[SPEC]
        _check_sizes(files, present)
        for name, said in files.items():
            if said["sha256"] is None:
                raise Damaged(f"{name} has no checksum, as versions before this one wrote it")
            if sha256(folder / name) != said["sha256"]:
                raise Damaged(f"{name} has changed")
    except OSError as error:
        raise Damaged(f"it cannot be read: {reason_of(error)}") from None
    except (KeyError, TypeError):
        raise Damaged(f"{SPEC} is not as it was written") from None


def _check_sizes(files: Mapping[str, Any], present: Mapping[str, int]) -> None:
    """Raise Damaged where the files of an entry are not those of its list, with their sizes."""
    if strange := sorted(present.keys() - files.keys()):
        raise Damaged(f"{short(strange[0])} was not written with it")
    for name, said in files.items():
        if name not in present:
            raise Damaged(f"{short(name)} is missing")
        try:
            size = said["size"]
        except (KeyError, TypeError):
            raise Damaged(f"{SPEC} is not as it was written") from None
        if present[name] != size:
            raise Damaged(f"{name} is truncated, or longer")


def _manifest(folder: Path) -> dict:
    """What `write_manifest` wrote. Raises Damaged where that is of another entry, too."""
    try:
        manifest = read_json(folder / SPEC, SPEC)
        made = digest(manifest["spec"], version=manifest["version"])
        kind = manifest.get("kind", folder.parent.name)
        files = manifest["files"]
        whole = "made" not in manifest or manifest["made_digest"] == digest(manifest["made"])
    except InputError:
        raise Damaged(f"{SPEC} cannot be read") from None
    except (KeyError, TypeError, AttributeError, RecursionError):
        raise Damaged(f"{SPEC} is not as it was written") from None
    if (kind, made) != (folder.parent.name, folder.name):
        raise Damaged("it is another result")
    if not whole:
        raise Damaged(f"{SPEC} is not as it was written")
    if not isinstance(files, dict) or not files:
        raise Damaged(f"{SPEC} names no files")
    return manifest


def _files_in(folder: Path) -> set[str]:
    """Everything below ``folder`` but its folders and its manifest. Raises OSError."""
    return dict(_sizes(os.fspath(folder))).keys() - {SPEC}


def _sizes(folder: str, within: str = "") -> Iterator[tuple[str, int]]:
    """Everything below ``folder`` but its folders, by its path there, and the bytes of it: of a
    link those of what it points to. Raises OSError."""
    with os.scandir(folder) as found:
        for item in found:
            name = within + item.name
            if item.is_dir(follow_symlinks=False):
                yield from _sizes(item.path, f"{name}/")
            else:
                yield name, _size(item)


def _size(item: os.DirEntry) -> int:
    try:
        return item.stat().st_size
    except FileNotFoundError:  # a link to nothing
        return -1
