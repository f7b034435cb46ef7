"""Plans as files of their own: written whole or not at all, and never over something else."""

import contextlib
import os
import uuid
from pathlib import Path

from ..errors import InputError
from .plan import FORMAT, PruningPlan


def check_plan_file(path: str | Path) -> Path:
    """``path`` as an absolute path, if a plan may be written there.

    It may be missing, in a folder that is there, or be a plan file. Raises InputError.
    """
    if not str(path).strip():
        raise InputError("The output file has no name; give one.")
    try:
        target = Path(path).expanduser().resolve()
        if target.is_dir():
            raise InputError(f"{target} is a folder; give a file to write to.")
        if target.exists() and not _is_plan(target):
            raise InputError(f"{target} is not a plan; give a new file, it is not overwritten.")
        if not target.parent.is_dir():
            raise InputError(f"The folder {target.parent} does not exist; make it first.")
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{str(path)[:200]!r} cannot be written: {reason}.") from None
    if not os.access(target.parent, os.W_OK):
        raise InputError(f"{target} cannot be written: no permission in {target.parent}.")
    return target


def _is_plan(file: Path) -> bool:
    """Whether it begins as the text of a plan does."""
    with file.open("rb") as text:
        return f'"format": "{FORMAT}"'.encode() in text.read(200)


def write_plan(plan: PruningPlan, path: str | Path) -> Path:
    """Write ``plan`` under a temporary name and rename it; the file. Raises InputError."""
    target = check_plan_file(path)
    unfinished = target.with_name(f".unfinished-{uuid.uuid4().hex[:12]}")
    try:
        unfinished.write_text(plan.to_json(), encoding="utf-8")
        os.replace(unfinished, target)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error.strerror or error}.") from None
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink()
    return target
