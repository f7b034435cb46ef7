"""What an export tells others: names without the folders of this machine, safe in Markdown."""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

from ..pruning.plan import PruningPlan
from ..store.inputs import short

_SPECIAL = re.compile(r"([\\`*_\[\]<|~&$])")
_MOST = 10_000


def public_name(name: str) -> str:
    """``name`` of a model, a text or the like as others may read it: of a path the last part."""
    path = name.startswith(("/", "~", ".")) or name.count("/") > 1
    return PurePath(name).name if path or ("/" in name and _exists(name)) else name


def _exists(name: str) -> bool:
    try:
        return Path(name).exists()
    except (OSError, ValueError):
        return False


def is_hub_id(name: str) -> bool:
    """Whether ``name`` is a model of the hub: ``owner/name``, maybe with ``@revision``."""
    return bool(re.fullmatch(r"[\w.-]+/[\w.-]+(@[\w./-]+)?", name)) and public_name(name) == name


def public_plan(plan: PruningPlan) -> PruningPlan:
    """``plan`` without paths of this machine in what it says of where it comes from."""
    return replace(plan, spec=_public(dict(plan.spec)))


def _public(said: Any) -> Any:
    """Every text in JSON data by `public_name`, and so each part of a list with commas."""
    if isinstance(said, Mapping):
        return {name: _public(value) for name, value in said.items()}
    if isinstance(said, (list, tuple)):
        return [_public(value) for value in said]
    return ", ".join(map(public_name, said.split(", "))) if isinstance(said, str) else said


def plain(text: object) -> str:
    """``text`` on one line of Markdown that shows it as it is: no markup, no HTML, no link."""
    escaped = _SPECIAL.sub(r"\\\1", short(text, _MOST))
    return re.sub(r"(?i)\bwww\.", r"www\.", escaped.replace("://", r":\//"))


def quoted(text: object) -> str:
    """``text`` as a literal of Python, on one line."""
    return json.dumps(str(text), ensure_ascii=False)
