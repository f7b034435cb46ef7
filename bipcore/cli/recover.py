"""The command ``recover``: fine-tune a pruned model, see what it won back, and export it."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from ..data.beginnings import said_of
from ..errors import InputError, short
from ..evaluation.metrics import chosen_metrics
from ..export.export import Export
from ..export.formats import AUTO
from ..export.places import check_target
from ..pipeline.pipeline import Pipeline
from ..pipeline.recoveries import Recovery
from ..pruning.plan import PruningPlan
from ..specs import EvaluationSpec, ModelSpec, PlanSpec, RecoverySpec, ScoreSpec
from ..store.inputs import named_path
from ..store.roots import check_root, fault_of
from ..store.runs import RunStore
from . import console
from .console import plan_facts
from .fitting import fitting
from .options import MOST, ExportFormat, Force, Json, Quantize, SaveType, with_specs
from .outputs import check_outputs, show_smaller

RecoveryName = Annotated[
    str | None,
    typer.Option(
        "--recovery",
        help="The name of a recovery (the command recover prints it): measure it, too, beside its "
        "own plan.",
    ),
]

Output = Annotated[
    Path | None,
    typer.Option(help="Export the recovered model to this folder, with its adapter, or GGUF file."),
]
MicroBatch = Annotated[
    int | None,
    typer.Option(help="Samples in one forward pass (default: about 2048 tokens).", max=MOST),
]
GradientCheckpointing = Annotated[
    bool | None,
    typer.Option(
        help="Run blocks again on the way back, to hold less; the weights are the same (default: "
        "where memory would not do without).",
        show_default=False,
    ),
]
CheckpointFolder = Annotated[
    Path | None, typer.Option(help="Keep checkpoints in this folder instead of the run store.")
]


@with_specs("score", "plan", "recovery", "evaluation")
def recover_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec,
    recovery: RecoverySpec,
    evaluation: EvaluationSpec,
    output: Output = None,
    micro_batch: MicroBatch = None,
    gradient_checkpointing: GradientCheckpointing = None,
    checkpoints: CheckpointFolder = None,
    format: ExportFormat = AUTO,
    save_dtype: SaveType = "auto",
    quantize: Quantize = AUTO,
    evaluate: Annotated[bool, typer.Option(help="Measure the perplexity of all three.")] = True,
    csv: Annotated[Path | None, typer.Option(help="Also write every step to a CSV file.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Train a pruned model towards the dense one, or with LoRA on a text as the paper does, and
    measure the dense, pruned and recovered model.

    Stopped and started again with the same settings, it goes on from its last checkpoint. The
    defaults of the training are the paper's, meant for a GPU: docs/zero-shot-and-recovery.md has
    sizes that take minutes on a CPU.
    """
    if output is not None:
        check_target(output, format)
    check_outputs(csv=csv, force=force)
    if evaluate:
        evaluation.identity()  # refuses a text that is not there before hours of work
    how = {"micro_batch": micro_batch, "checkpoints": checkpoint_store(checkpoints)}
    again = {"gradient_checkpointing": gradient_checkpointing}
    written = {"format": format, "save_dtype": save_dtype, "quantize": quantize}
    with console.progress_bar() as progress:
        pipeline = fitting(progress, "recover", score, plan, recovery=recovery, **again)
        if output is not None:
            pipeline.check_export(score, plan, recovery, **written)
        done = _recover(pipeline, score, plan, recovery, **how, **again)
        figures = figures_of(pipeline, score.model, evaluation, done) if evaluate else {}
        written["evaluation"] = evaluation if evaluate else None
        exported = _export(pipeline, score.model, done, output, **written)
    if csv is not None:
        _write_history(done, csv)
    if json:
        _emit_json(done, figures, exported)
    else:
        _show(done, score.model, evaluation, figures, exported)


def _write_history(done: Recovery, path: Path) -> None:
    from ..views.recovery import history_frame

    console.write_csv(history_frame(done.history), path)


def _export(
    pipeline: Pipeline, model: ModelSpec, done: Recovery, output: Path | None, **how: Any
) -> dict[str, Export]:
    """What `Pipeline.export` says of the recovered model; nothing where no folder is given."""
    if output is None:
        return {}
    export = pipeline.export(model, done.plan, output, recovery=done.spec, **how)
    return {"export": export}


def _recover(
    pipeline: Pipeline,
    score: ScoreSpec,
    plan: PlanSpec,
    recovery: RecoverySpec,
    **how: Any,
) -> Recovery:
    """``how`` is that of `Pipeline.recover`."""
    if not pipeline.has_scores(score, plan):  # else what is wrong is found soon enough
        pipeline.check_recovery(score.model, recovery)
    chosen = pipeline.plan(score, plan)
    return pipeline.recover(score.model, chosen, recovery, **how)


def checkpoint_store(folder: Path | None) -> RunStore | None:
    """A store for checkpoints in a folder of the user's; raises InputError for what is none."""
    if folder is None:
        return None
    store = RunStore(named_path(folder, "The folder of checkpoints"))
    if (fault := fault_of(store.root)) is not None:
        raise InputError(
            f"Checkpoints cannot be kept in {short(folder)}, since {fault}; give a folder of its "
            "own."
        )
    check_root(store.root)
    return store


def figures_of(
    pipeline: Pipeline, model: ModelSpec, text: EvaluationSpec, done: Recovery
) -> dict[str, dict]:
    """What `Pipeline.evaluate` says of the dense, the pruned and the recovered model."""
    return {
        "dense": pipeline.evaluate(model, text),
        "pruned": pipeline.evaluate(model, text, done.plan),
        "recovered": pipeline.evaluate(model, text, done.plan, done.spec),
    }


def emit_figures(evaluation: EvaluationSpec, figures: Mapping[str, dict]) -> None:
    """Print what `Pipeline.evaluate` says of every state: a column for each metric."""
    metrics = chosen_metrics(evaluation.metrics)
    titles = ", ".join(metric.title for metric in metrics)
    rows = [
        [name, *(metric.say(found[metric.name]) for metric in metrics), f"{found['tokens']:,}"]
        for name, found in figures.items()
    ]
    header = ["Model", *(metric.heading for metric in metrics), "Tokens"]
    begun = said_of(next(iter(figures.values()))["beginning"])
    where = f"{evaluation.text}, window {evaluation.window}, {begun}"
    console.emit_table(f"{titles} on {where}", header, rows)
    for name, found in figures.items():
        if "note" in found:
            console.emit_text(f"The {name} model", found["note"])


def chosen_states(
    pipeline: Pipeline, score: ScoreSpec, plan: PlanSpec | None, name: str | None
) -> tuple[PruningPlan | None, RecoverySpec | None]:
    """What to measure beside the dense model: a plan, and the recovery called ``name``.

    A recovery brings the plan that it was made on. Raises InputError where another is asked for.
    """
    if name is None:
        return (pipeline.plan(score, plan) if plan else None), None
    if plan is not None:
        raise InputError(
            "A recovery has its own plan; give --recovery without --sparsity and --plan."
        )
    return pipeline.stored_recovery(score.model, name)


def _facts(done: Recovery) -> dict[str, Any]:
    first, last = done.history[1], done.history[-1]
    looks = [step.validation for step in done.history if step.validation is not None]
    apart = [step.validation_kl for step in done.history if step.validation_kl is not None]
    return {
        "recovery": done.name,
        "settings": asdict(done.spec),
        "steps_done": last.step,
        "step_chosen": done.chosen,
        "tokens": done.tokens,
        "seconds": done.seconds,
        "loss_first": first.loss,
        "loss_last": last.loss,
        "validation_before": looks[0] if looks else None,
        "validation_best": min(looks) if looks else None,
        "validation_kl_before": apart[0] if apart else None,
        "validation_kl_best": min(apart) if apart else None,
    }


def _emit_json(done: Recovery, figures: Mapping[str, dict], exported: Mapping[str, Export]) -> None:
    steps = {"steps": [asdict(step) for step in done.history]}
    said = {name: asdict(export) for name, export in exported.items()}
    console.emit_json(_facts(done) | plan_facts(done.plan) | figures | said | steps)


def _show(
    done: Recovery,
    model: ModelSpec,
    evaluation: EvaluationSpec,
    figures: Mapping[str, dict],
    exported: Mapping[str, Export],
) -> None:
    facts = {k: v for k, v in _facts(done).items() if k != "settings" and v is not None}
    shown = {k: f"{v:,.4g}" if isinstance(v, float) else v for k, v in facts.items()}
    console.emit_facts(f"{model.name}, recovered", shown)
    if figures:
        emit_figures(evaluation, figures)
    for export in exported.values():
        console.emit_facts("Exported", asdict(export))
        show_smaller(export)
