"""The command ``curves``: what each sublayer loses at every width."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..pipeline.pipeline import Pipeline
from ..specs import ScoreSpec
from . import console
from .options import Force, Json, with_specs
from .outputs import check_outputs


@with_specs("score")
def curves_command(
    *,
    score: ScoreSpec,
    csv: Annotated[Path | None, typer.Option(help="Also write every width to a CSV file.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """What each sublayer loses at every width, as obs, obs-fisher or slimgpt count it."""
    from ..views.curves import curves_frame, curves_summary

    check_outputs(csv=csv, force=force)
    with console.progress_bar() as progress:
        curves = Pipeline(progress=progress).plans.curves(score)
    if csv:
        console.write_csv(curves_frame(curves), csv)
    table = curves_summary(curves)
    if json:
        settings = asdict(curves.settings)
        rows = curves_frame(curves).to_dict("records")
        console.emit_json({"spec": asdict(score), "settings": settings, "curves": rows})
    else:
        console.emit_frame(f"Share of a sublayer's output lost, {score.model.name}", table)
