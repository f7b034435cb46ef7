"""The commands ``merge`` and ``dequantise``: a folder that can be pruned, of what cannot."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from . import console
from .options import Json


def merge_command(
    adapter: Annotated[str, typer.Argument(help="The folder of a LoRA adapter.")],
    *,
    output: Annotated[Path, typer.Option(help="The folder to write to.")],
    base: Annotated[
        str, typer.Option(help="The model it was made for (default: the one that it names).")
    ] = "",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")] = "auto",
    dtype: Annotated[
        str, typer.Option(help="auto (as the model is stored), float32, bfloat16 or float16.")
    ] = "auto",
    json: Json = False,
) -> None:
    """Merge a LoRA adapter into the model that it was made for, and write that as a folder."""
    from ..export.merging import adapters_base, merge_adapter
    from ..store.files import check_destination

    check_destination(output)
    base = base or adapters_base(adapter)
    with console.progress_bar() as progress:
        how = {"device": device, "dtype": dtype, "progress": progress}
        merged = merge_adapter(adapter, base, output, **how)
    if json:
        console.emit_json(asdict(merged))
    else:
        console.emit_facts(f"{base} with {adapter}", asdict(merged))


def dequantise_command(
    model: Annotated[str, typer.Argument(help="A model folder or a hub id, stored in fp8.")],
    *,
    output: Annotated[Path, typer.Option(help="The folder to write to.")],
    dtype: Annotated[
        str, typer.Option(help="auto (as its config.json says), float32, bfloat16 or float16.")
    ] = "auto",
    json: Json = False,
) -> None:
    """Write a model that is stored in fp8 as a folder of plain weights."""
    from ..export.dequantising import dequantise
    from ..store.files import check_destination

    check_destination(output)
    with console.progress_bar() as progress:
        made = dequantise(model, output, dtype=dtype, progress=progress)
    if json:
        console.emit_json(asdict(made))
    else:
        console.emit_facts(f"{model} in {made.dtype}", asdict(made))
