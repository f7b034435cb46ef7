"""The licence of a base model, from the front matter of its model card."""

import re
from pathlib import Path

from ..errors import InputError
from ..models.loading import find_folder
from ..store.runs import RunStore


def licence_of(name: str, *, store: RunStore | None = None) -> str:
    """The ``license`` field of the card beside the model's weights, else "unknown"."""
    try:
        card = Path(find_folder(name, store=store)) / "README.md"
        text = card.read_text(encoding="utf-8")
    except (InputError, OSError, UnicodeDecodeError):
        return "unknown"
    front = re.match(r"---\s*\n(.*?)\n---", text, flags=re.DOTALL)
    found = (
        re.search(r"^license:\s*([\w.+-]+)\s*$", front[1], flags=re.MULTILINE) if front else None
    )
    return found[1] if found else "unknown"
