"""The command ``estimate``: what another command would take."""

from dataclasses import replace
from typing import Annotated

import typer

from ..evaluation.estimating import TASKS, Estimate, Job, check, estimate
from ..evaluation.workload import said_size, speed_of
from ..settings import parse_list
from ..specs import EvaluationSpec, PlanSpec, RecoverySpec, ScoreSpec, ZeroShotSpec
from . import console
from .options import MOST, Json, SaveType, with_specs


@with_specs("score", "maybe_plan", "evaluation", "recovery")
def estimate_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    evaluation: EvaluationSpec,
    recovery: RecoverySpec,
    task: Annotated[str, typer.Option("--for", help=f"The command: {', '.join(TASKS)}.")] = "score",
    criteria: Annotated[
        str, typer.Option(help="Of a sweep or reconstruct: criteria, with commas between.")
    ] = "",
    points: Annotated[
        int, typer.Option(help="Of a sweep: pruned models of each criterion.", min=1, max=MOST)
    ] = 3,
    limit: Annotated[
        int | None, typer.Option(help="Of zero-shot: rows of each task.", min=1, max=MOST)
    ] = None,
    save_dtype: SaveType = "auto",
    json: Json = False,
) -> None:
    """Memory, disk and rough time of a command, from the model's configuration alone.

    Takes the options of that command. Nothing is loaded; what cannot fit is refused, with what
    would. What the run store already has is not subtracted.
    """
    pruned = task in ("prune", "reconstruct", "sweep", "recover")
    job = Job(
        task,
        score,
        plan or (PlanSpec() if pruned else None),
        evaluation,
        ZeroShotSpec(limit=limit),
        recovery,
        criteria=parse_list(criteria, str, "criteria") if criteria else (),
        points=points if task == "sweep" else 1,
        save_dtype=save_dtype,
    )
    found = replace(estimate(job), speed=speed_of(score.model))
    check(job, found)
    if json:
        console.emit_json(_facts(found))
        return
    rows = [[name, said_size(size)] for name, size in found.peak.terms.items()]
    rows.append(["together", said_size(found.peak.bytes)])
    console.emit_table(f"While it takes most: {found.peak.name}", ["", "Memory"], rows)
    console.emit_text(f"{task} of {score.model.name}", str(found))


def _facts(found: Estimate) -> dict:
    """An estimate as plain data, sizes in bytes; ``stages`` are the terms of each."""
    return {
        "memory": found.peak.bytes,
        "largest": found.peak.name,
        "host_memory": found.host,
        "disk": found.disk,
        "seconds": found.seconds,
        "macs": found.macs,
        "device": found.device,
        "free": found.free,
        "streamed": found.held.budget is not None,
        "stages": [{"name": one.name, "terms": one.terms} for one in found.stages],
    }
