"""The commands ``score`` and ``prune``: what is worth how much, and a pruned model as a folder."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..data.beginnings import said_of
from ..evaluation.metrics import chosen_metrics
from ..export.formats import AUTO
from ..export.places import check_target
from ..specs import EvaluationSpec, PlanSpec, ScoreSpec
from . import console
from .console import plan_facts
from .fitting import fitting
from .options import ExportFormat, Force, Json, Quantize, SaveType, with_specs
from .outputs import check_outputs, show_smaller


@with_specs("score", "maybe_plan")
def score_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    csv: Annotated[Path | None, typer.Option(help="Also write every score to a CSV file.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Score every head and channel; with --sparsity also say what would be removed."""
    from ..views.scores import scores_frame, summary_frame

    check_outputs(csv=csv, force=force)
    with console.progress_bar() as progress:
        pipeline = fitting(progress, "score", score, plan)
        cached = pipeline.has_scores(score, plan)
        chosen = pipeline.plan(score, plan) if plan else None
        scores = pipeline.scores(score, plan)
    if csv:
        console.write_csv(scores_frame(scores, chosen), csv)
    table = summary_frame(scores, chosen)
    if not json:
        title = f"{score.criterion} scores of {score.model.name}"
        title += f", {said_of(scores.beginning)}" if scores.beginning else ""
        console.emit_frame(title, table)
        return
    blocks = [
        row | {"heads": of_block.heads.tolist(), "kv_groups": of_block.kv_groups.tolist()}
        for row, of_block in zip(table.to_dict("records"), scores.blocks, strict=True)
    ]
    facts = {"spec": asdict(score), "cached": cached, "fingerprint": scores.fingerprint}
    facts |= {"beginning": scores.beginning}
    console.emit_json(facts | plan_facts(chosen) | {"blocks": blocks})


@with_specs("score", "plan", "evaluation")
def prune_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec,
    evaluation: EvaluationSpec,
    output: Annotated[Path, typer.Option(help="The folder to export to, or the GGUF file.")],
    format: ExportFormat = AUTO,
    save_dtype: SaveType = "auto",
    quantize: Quantize = AUTO,
    evaluate: Annotated[
        bool, typer.Option(help="Measure the perplexity before and after, for the model card.")
    ] = True,
    json: Json = False,
) -> None:
    """Prune a model and export it as a folder that stock transformers loads, or as a GGUF file."""
    check_target(output, format)
    types = {"save_dtype": save_dtype, "quantize": quantize}
    written = {"format": format, **types}
    with console.progress_bar() as progress:
        pipeline = fitting(progress, "prune", score, plan, text=evaluation, **types)
        pipeline.check_export(score, plan, **written)
        cached = pipeline.has_scores(score, plan)
        chosen = pipeline.plan(score, plan)
        wanted = evaluation if evaluate else None
        export = pipeline.export(score.model, chosen, output, evaluation=wanted, **written)
        states = (None, chosen) if evaluate else ()
        results = [pipeline.evaluate(score.model, evaluation, which) for which in states]
    facts = {"spec": asdict(score), "cached": cached, **plan_facts(chosen), **asdict(export)}
    for metric in chosen_metrics(evaluation.metrics):
        for name, result in zip(("before", "after"), results, strict=False):
            facts[f"{metric.name}_{name}"] = result[metric.name]
    if json:
        console.emit_json(facts)
        return
    hidden = ("spec", "plan", "cached")
    shown = {name: value for name, value in facts.items() if name not in hidden}
    title = f"{score.model.name}, pruned by {chosen.spec.get('criterion', 'hand')}"
    console.emit_facts(title, shown)
    show_smaller(export)
