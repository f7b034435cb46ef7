"""What is supported of each family: facts in, a data frame or the text of a page out."""

from collections.abc import Sequence

import pandas as pd

from ..export.supported import SAME, Support

_UNITS = {"head": "heads", "query-head": "query heads", "kv-group": "KV groups"}
_STOCK, _CODE = "stock", "modelling-file"

_OPENING = """# Model families

Written by `bipcore families --markdown`, and not by hand: of each family a small configuration is
made, and the export formats are asked what they would hold of it.

Of every family FFN channels and whole sublayers can be removed, and of all but those with "whole
attentions only" query heads; heads with their key/value heads (KV groups) where query heads share
them. Any plan can be exported as a folder with
one modelling file (`--format modelling-file`). What else holds it depends on its widths, and for
single models on their configuration (biases, rotary embeddings, numbers of heads):
`bipcore runtimes MODEL` says it of one.

What is exact in every family, on tiny random models of it (`tests/models/`): scores are those of a
reference that is written out by hand; a pruned model gives the logits of the masked one, with
padding and in generation with a cache; an export that is read back has the weights that were
written, to the last bit.
"""


def families_frame(supports: Sequence[Support]) -> pd.DataFrame:
    """A row for each family: its units of attention, what each export holds, what to know of it."""
    rows = [
        {
            "model_type": one.model_type,
            "family": one.title,
            "attention": _units(one),
            "stock_folder": _held(one, _STOCK),
            "folder_with_code": _held(one, _CODE),
            "gguf": _architectures(one),
            "tested_with": _versions(one),
            "models": ", ".join(one.models),
            "quirk": one.quirk,
        }
        for one in supports
    ]
    return pd.DataFrame(rows)


def families_page(supports: Sequence[Support]) -> str:
    """The page about them, as Markdown."""
    head = "| family | `model_type` | attention | stock folder | GGUF | transformers |"
    lines = [_OPENING, head, "|---|---|---|---|---|---|"]
    for one in supports:
        cells = (one.title, f"`{one.model_type}`", _units(one), _held(one, _STOCK))
        lines.append(f"| {' | '.join((*cells, _architectures(one), _versions(one)))} |")
    lines += ["", "What to know of each:", ""]
    for one in supports:
        named = f" ({', '.join(one.models)})" if one.models else ""
        lines.append(f"- **{one.title}**{named}. {one.quirk}")
    return "\n".join(lines)


def _units(one: Support) -> str:
    return ", ".join(_UNITS[unit] for unit in one.units) or "whole attentions only"


def _held(one: Support, format: str) -> str:
    """The kinds of plans that a format holds, in words."""
    kinds = [kind for kind, formats in one.formats.items() if format in formats]
    return "any plan" if len(kinds) == len(one.formats) else _said(kinds) or "none"


def _architectures(one: Support) -> str:
    """The architectures of llama.cpp, each with the kinds of plans that it is for."""
    kinds: dict[str, list[str]] = {}
    for kind, name in one.gguf.items():
        if name:
            kinds.setdefault(name, []).append(kind)
    return "; ".join(f"{name}: {_said(held)}" for name, held in kinds.items()) or "none"


def _said(kinds: list[str]) -> str:
    """Kinds of plans in words; how many heads there are is said where it counts."""
    if SAME[0] in kinds and SAME[1] in kinds:
        kinds = ["same widths", *(kind for kind in kinds if kind not in SAME)]
    return ", ".join(kinds)


def _versions(one: Support) -> str:
    return " and ".join(one.transformers)
