"""The command ``reconstruct``: reconstruction error by block, for several criteria."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from . import console
from .lists import parse_list
from .options import with_specs
from .pipeline import Pipeline
from .plan import PruningPlan
from .specs import EvaluationSpec, PlanSpec, ScoreSpec


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("reconstruct")(reconstruct_command)


@with_specs("score", "plan", "evaluation")
def reconstruct_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec,
    evaluation: EvaluationSpec,
    criteria: Annotated[
        str, typer.Option(help="Criteria with commas between (default: the one of --criterion).")
    ] = "",
    csv: Annotated[Path | None, typer.Option(help="Also write the table to a CSV file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Reconstruction error of every block, accumulated and local, and the LLM-BIP bound beside it.

    Errors are means of |f(X) - f^(X^)| over tokens and hidden units; relative ones are shares of
    mean |f(X)|.
    """
    from .frames import reconstruction_frame
    from .reconstruction import llm_bip_bound

    names = parse_list(criteria, str, "criteria") or (score.criterion,)
    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        plans: dict[str, PruningPlan] = {}
        for name in names:
            plans[name] = pipeline.plan(replace(score, criterion=name, options=()), plan)
        bip = pipeline.scores(replace(score, criterion="llm-bip", options=()))
        errors = pipeline.reconstruction(score.model, plans, evaluation)
    bounds = {name: llm_bip_bound(bip, chosen) for name, chosen in plans.items()}
    frame = reconstruction_frame(errors, bounds)
    if csv:
        console.write_csv(frame, csv)
    if json:
        plan_facts = {name: dict(p.spec) | {"realised": p.realised} for name, p in plans.items()}
        facts = {"spec": asdict(score), "evaluation": asdict(evaluation), "plans": plan_facts}
        console.emit_json(facts | {"errors": frame.to_dict("records")})
        return
    console.emit_frame(f"Reconstruction error of {score.model.name} on {evaluation.text}", frame)
