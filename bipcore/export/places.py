"""Where an export lies: a folder, or a file with its plan, card and manifest beside it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, short
from ..pruning.plan import PLAN_FORMAT
from ..store.files import (
    MANIFEST,
    MANIFEST_FORMAT,
    check_destination,
    check_files,
    read_manifest,
    replacing,
    replacing_files,
)
from ..store.inputs import named_path
from ..store.manifest import changed
from .base import Format
from .card import CARD, MADE_WITH
from .formats import AUTO, FORMATS, find_format


@dataclass(frozen=True)
class Place:
    """An export at ``target``, a folder or the file ``file``: what is beside its weights lies in
    the folder ``root``, called ``plan``, ``card`` and ``manifest``."""

    target: Path
    root: Path
    file: str = ""
    plan: str = "plan.json"
    card: str = CARD
    manifest: str = MANIFEST

    def read_manifest(self) -> dict:
        """The manifest; {} where there is none."""
        return read_manifest(self.root, self.manifest)

    def changed(self) -> str | None:
        """What is not as it was written, in a few words; None if all is."""
        return changed(self.root, self.manifest)

    def at(self, root: Path) -> Path:
        """What the weights are written to where the folder is called ``root``."""
        return root / self.file if self.file else root


def _beside(target: Path) -> Place:
    """The place of an export that is the file ``target``."""
    names = {"plan": f"{target.stem}.plan.json", "card": f"{target.stem}.md"}
    manifest = f"{target.stem}.{MANIFEST}"
    return Place(target, target.parent, target.name, manifest=manifest, **names)


def place_of(path: str | Path) -> Place:
    """The place of an export that is there; raises InputError for no path."""
    target = named_path(path, "The export").resolve()
    file = target.suffix in _suffixes() and not target.is_dir()
    return _beside(target) if file else Place(target, target)


def _suffixes() -> dict[str, str]:
    """The formats that are files, by the suffix of their names."""
    return {one.suffix: one.name for one in FORMATS.values() if one.suffix}


def check_target(path: str | Path, format: str) -> Place:
    """The place of an export to ``path`` in the format of that name, or "auto", if it may be
    written there; an earlier one that nothing was added to may be there. Raises InputError."""
    suffix = "" if format == AUTO else find_format(format).suffix
    found = Path(path).suffix
    if not suffix:
        if found in _suffixes() and not Path(path).expanduser().is_dir():
            name = _suffixes()[found]
            raise InputError(
                f"{short(path)} is the name of a file; give --format {name}, or the name of a "
                "folder."
            )
        target = check_destination(path)
        return Place(target, target)
    target = check_files(path, {})
    if target.suffix != suffix:
        raise InputError(
            f"An export in the format {format} is a file; give a name that ends in {suffix}, not "
            f"{short(path)}."
        )
    place = _beside(target)
    check_files(target, _marks(place, find_format(format)))
    return place


def _marks(place: Place, written_as: Format) -> Mapping[str, bytes]:
    """By what the files at ``place`` are known to be ours; the manifest is the last."""
    return {
        place.file: written_as.mark,
        place.plan: PLAN_FORMAT.encode(),
        place.card: MADE_WITH.encode(),
        place.manifest: MANIFEST_FORMAT.encode(),
    }


@contextmanager
def writing(place: Place, written_as: Format, *, size: int) -> Iterator[Path]:
    """A folder to write an export to that is the ``root`` of its ``place`` in the end, whole or not
    at all. Raises InputError."""
    if not place.file:
        with replacing(place.target, size=size) as unfinished:
            yield unfinished
        return
    with replacing_files(place.target, _marks(place, written_as), size=size) as unfinished:
        yield unfinished
