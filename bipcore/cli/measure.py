"""The commands that measure: ``evaluate``, ``profile``, ``reconstruct`` and ``zero-shot``."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

import typer

from ..criteria import find_criterion
from ..errors import InputError
from ..evaluation.profiling import profile_rows
from ..evaluation.zero_shot import TaskResult, average
from ..pipeline.pipeline import Pipeline
from ..settings import parse_list
from ..specs import EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec, ZeroShotSpec
from . import console
from .console import plan_facts
from .fitting import fitting
from .options import MOST, Force, Json, with_specs
from .outputs import check_outputs
from .recover import RecoveryName, chosen_states, emit_figures

_MOST_BATCH, _MOST_REPEATS = 2**20, 1000
_PLAN = "plan"
"""The name of the plan of a file."""


@with_specs("score", "plan", "test_text")
def reconstruct_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec,
    test_text: EvaluationSpec,
    criteria: Annotated[
        str | None,
        typer.Option(
            help="Criteria with commas between (default: the one of --criterion; with --plan, "
            "none beside the plan)."
        ),
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write the table to a CSV file.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Reconstruction error of every block, accumulated and local, and the LLM-BIP bound beside it.

    Errors are means of |f(X) - f^(X^)| over tokens and hidden units; relative ones are shares of
    mean |f(X)|. The plan of a file is measured as "plan", beside those of --criteria.
    """
    from ..evaluation.reconstruction import llm_bip_bound
    from ..views.reconstruction import reconstruction_frame

    check_outputs(csv=csv, force=force)
    wanted = _wanted(criteria, score, plan)
    names = tuple(name for name in wanted if name != _PLAN)
    test_text.identity()  # refuses a text that is not there before anything is scored
    with console.progress_bar() as progress:
        pipeline = fitting(progress, "reconstruct", score, plan, text=test_text, criteria=names)
        plans = {name: pipeline.plan(*specs) for name, specs in wanted.items()}
        bip = pipeline.scores(replace(score, criterion="llm-bip", options=()))
        errors = pipeline.reconstruction(score.model, plans, test_text)
    bounds = {name: llm_bip_bound(bip, chosen) for name, chosen in plans.items()}
    frame = reconstruction_frame(errors, bounds)
    if csv:
        console.write_csv(frame, csv)
    if json:
        plan_facts = {name: dict(p.spec) | {"realised": p.realised} for name, p in plans.items()}
        facts = {"spec": asdict(score), "evaluation": test_text.facts, "plans": plan_facts}
        console.emit_json(facts | {"errors": frame.to_dict("records")})
        return
    console.emit_frame(f"Reconstruction error of {score.model.name} on {test_text.text}", frame)


def _wanted(
    criteria: str | None, score: ScoreSpec, plan: PlanSpec
) -> dict[str, tuple[ScoreSpec, PlanSpec]]:
    """What to measure, by name. The options of a criterion are those of --criterion alone."""
    names = () if criteria is None and plan.source else (score.criterion,)
    if criteria is not None:
        names = parse_list(criteria, str, "criteria")
        if not names:
            raise InputError("There are no criteria in the list; give at least one.")
    for name in names:
        find_criterion(name)
    if score.options and score.criterion not in names:
        raise InputError(
            f"The options are those of the criterion {score.criterion!r}, which is not measured; "
            "say with --criterion whose they are."
        )
    wanted = {_PLAN: (score, plan)} if plan.source else {}
    for name in names:
        options = score.options if name == score.criterion else ()
        wanted[name] = replace(score, criterion=name, options=options), replace(plan, source="")
    return wanted


@with_specs("score", "maybe_plan", "zero_shot")
def zero_shot_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    zero_shot: ZeroShotSpec,
    recovery: RecoveryName = None,
    csv: Annotated[Path | None, typer.Option(help="Also write every figure to a CSV file.")] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Accuracies in zero-shot tasks, by lm_eval; with --sparsity of the pruned model, too, and
    with --recovery of the pruned and of the recovered model.

    Every task is stored when it is done: stopped and started again, a run goes on where it was.
    """
    from ..pipeline.pipeline import measure_states
    from ..pipeline.recoveries import states_of
    from ..views.zero_shot import results_frame

    check_outputs(csv=csv, force=force)
    results: dict[str, list[TaskResult]] = {}
    with console.progress_bar() as progress:
        pipeline = fitting(progress, "zero-shot", score, plan, tasks=zero_shot)
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
    plans = plan_facts(chosen)
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


@with_specs("score", "maybe_plan", "evaluation")
def evaluate_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    evaluation: EvaluationSpec,
    recovery: RecoveryName = None,
    json: Json = False,
) -> None:
    """Perplexity of a model, with --sparsity of the pruned model beside it, and with --recovery
    of the pruned and of the recovered model."""
    with console.progress_bar() as progress:
        pipeline = fitting(progress, "evaluate", score, plan, text=evaluation)
        chosen, recovered = chosen_states(pipeline, score, plan, recovery)
        results = {"dense": pipeline.evaluate(score.model, evaluation)}
        if chosen:
            results["pruned"] = pipeline.evaluate(score.model, evaluation, chosen)
        if recovered:
            results["recovered"] = pipeline.evaluate(score.model, evaluation, chosen, recovered)
    if json:
        console.emit_json({"spec": asdict(score), **plan_facts(chosen), **results})
        return
    emit_figures(evaluation, results)


@with_specs("model", "maybe_plan")
def profile_command(
    *,
    model: ModelSpec,
    plan: PlanSpec | None,
    seq_len: Annotated[int, typer.Option(help="Tokens in a sequence.", max=MOST)] = 512,
    batch_size: Annotated[
        int, typer.Option(help="Sequences in a forward pass.", max=_MOST_BATCH)
    ] = 1,
    repeats: Annotated[
        int, typer.Option(help="Forward passes; the median counts.", max=_MOST_REPEATS)
    ] = 5,
    shapes_only: Annotated[
        bool, typer.Option("--shapes-only", help="Count only; load no weights, run nothing.")
    ] = False,
    json: Json = False,
) -> None:
    """Parameters, MACs, latency, tokens a second and peak memory; with --sparsity pruned, too.

    The cost depends on the widths alone, not on which heads and channels go, so nothing is
    scored.
    """
    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        if shapes_only:
            dense, pruned = pipeline.profile_shapes(model, plan, seq_len=seq_len)
        else:
            settings = {"seq_len": seq_len, "batch_size": batch_size, "repeats": repeats}
            dense, pruned = pipeline.profile(model, plan, **settings)
    if json:
        console.emit_json(asdict(dense) | ({"pruned": asdict(pruned)} if pruned else {}))
        return
    rows = [[name, value] for name, value in profile_rows(dense)]
    if pruned:
        rows = [[*row, after] for row, (_, after) in zip(rows, profile_rows(pruned), strict=True)]
    header = ["", "Dense", "Pruned"] if pruned else ["", "Dense"]
    console.emit_table(f"{model.name}, {seq_len} tokens", header, rows)
