"""The command ``families``: which models are supported, and what of each."""

from dataclasses import asdict
from typing import Annotated

import typer

from ..errors import InputError
from ..export.supported import every_support
from . import console
from .options import Json

_SHOWN = ["family", "model_type", "attention", "stock_folder", "gguf", "models"]


def families_command(
    *,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/families.md.")
    ] = False,
    json: Json = False,
) -> None:
    """The families of models: what can be pruned, which exports hold it, and what to know."""
    from ..views.families import families_frame, families_page

    if markdown and json:
        raise InputError("The families are printed as JSON or as Markdown, not both.")
    supports = every_support()
    if json:
        console.emit_json({"families": [asdict(one) for one in supports]})
    elif markdown:
        console.emit_line(families_page(supports))
    else:
        console.emit_frame("Families", families_frame(supports)[_SHOWN])
