"""The command ``stability``: one criterion under several calibration sets."""

from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError
from ..pipeline.over_texts import scores_over_texts
from ..pipeline.pipeline import Pipeline
from ..pipeline.plans import plan_of
from ..specs import PlanSpec, ScoreSpec
from . import console
from .options import Force, Json, with_specs
from .outputs import check_outputs
from .plans import without


@without("source")
@with_specs("score", "plan")
def stability_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec,
    csv: Annotated[Path | None, typer.Option(help="Also write the table to a CSV file.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """How far a criterion's scores and plan depend on the calibration set, from stored scores.

    Compared are all calibration sets on which the model has been scored by the criterion, whatever
    --calibration, --samples and --seed say; nothing is computed. Of every block: how many heads and
    channels go under all of them, some, or none, and Spearman's rank correlation between them.
    """
    from ..pruning.stability import stability

    check_outputs(csv=csv, force=force)
    if plan.propagation != "dense":
        raise InputError("How stable scores are is told of those of the dense model alone.")
    pipeline = Pipeline()
    pipeline.bench.ensure_content(score.model)
    found = scores_over_texts(pipeline.store, score)
    if len(found) < 2:
        raise InputError(
            f"Of {len(found)} calibration sets there are stored scores of {score.model.name} by "
            f"{score.criterion}, and it takes 2 to compare; score another text or --seed first."
        )
    made = {name: (scores, plan_of(scores, score, plan)) for name, scores in found.items()}
    frame = stability(made)
    if csv:
        console.write_csv(frame, csv)
    if json:
        facts = {"model": score.model.name, "criterion": score.criterion, "sets": list(made)}
        console.emit_json(facts | {"blocks": frame.to_dict("records")})
        return
    console.emit_frame(f"{score.criterion} on {'; '.join(made)}", frame)
