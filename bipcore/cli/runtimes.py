"""The command ``runtimes``: which programs take a plan."""

from ..export.runtimes import runtimes
from ..models.loading import load_config
from ..pipeline.pipeline import Pipeline
from ..specs import PlanSpec, ScoreSpec
from . import console
from .options import Json, with_specs


@with_specs("score", "plan")
def runtimes_command(*, score: ScoreSpec, plan: PlanSpec, json: Json = False) -> None:
    """Which programs run what a plan leaves of a model, and what they would run instead."""
    from ..views.runtimes import runtimes_frame

    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        chosen = pipeline.plan(score, plan)
        found = runtimes(chosen, load_config(score.model.name, store=pipeline.store))
    table = runtimes_frame(found)
    if json:
        facts = {"model": score.model.name, **console.plan_facts(chosen)}
        console.emit_json(facts | {"programs": table.to_dict("records")})
    else:
        console.emit_frame(f"Programs that take this plan of {score.model.name}", table)
