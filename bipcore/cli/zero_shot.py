"""The command ``zero-shot``: accuracies in the common-sense tasks, and in lm_eval's others."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..evaluation.zero_shot import TaskResult, average
from ..pipeline.pipeline import Pipeline
from ..specs import ModelSpec, PlanSpec, ScoreSpec, ZeroShotSpec
from . import console
from .options import with_specs
from .plans import plan_facts
from .recover import RecoveryName, chosen_states


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("zero-shot")(zero_shot_command)


@with_specs("score", "maybe_plan", "zero_shot")
def zero_shot_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    zero_shot: ZeroShotSpec,
    recovery: RecoveryName = "",
    csv: Annotated[Path | None, typer.Option(help="Also write every figure to a CSV file.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = False,
) -> None:
    """Accuracies in zero-shot tasks, by lm_eval; with --sparsity of the pruned model, too, and
    with --recovery of the pruned and of the recovered model.

    Every task is stored when it is done: stopped and started again, a run goes on where it was.
    """
    from ..pipeline.zero_shot_states import measure_states, states_of
    from ..views.zero_shot import results_frame

    if csv is not None:
        from ..views.report import check_file

        check_file(csv)
    results: dict[str, list[TaskResult]] = {}
    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        pipeline.check_zero_shot(score.model, zero_shot)  # before anything is scored
        chosen, tuned = chosen_states(pipeline, score, plan, recovery)
        states = states_of(chosen, tuned)
        for name, result in measure_states(pipeline, score.model, zero_shot, states):
            results.setdefault(name, []).append(result)
    if csv is not None:
        console.write_csv(results_frame(results), csv)
    if not json:
        _show(score.model, results)
        return
    facts = {"spec": asdict(score), "zero_shot": asdict(zero_shot)}
    plans = plan_facts(chosen) if chosen else {}
    rows = {name: [_row(result) for result in found] for name, found in results.items()}
    means = {name: average(found) for name, found in results.items()}
    console.emit_json(facts | plans | rows | {"average": means})


def _row(result: TaskResult) -> dict:
    return result.to_dict() | {"score": result.score, "limited": result.limited}


def _show(model: ModelSpec, results: Mapping[str, Sequence[TaskResult]]) -> None:
    from ..views.zero_shot import MEAN_NOTE, readable, rows_note

    table = readable(results)
    title = f"Accuracy of {model.name}, % ± standard error"
    console.emit_table(title, list(table.columns), table.values.tolist())
    console.emit_text("What was measured", f"{rows_note(results)} {MEAN_NOTE}")
