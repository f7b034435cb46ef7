"""The command line: ``python -m bipcore``."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ..errors import explain
from ..evaluation.metrics import chosen_metrics
from ..evaluation.profiling import profile_rows
from ..export.formats import AUTO
from ..pipeline.pipeline import Pipeline
from ..pruning.plan import PruningPlan
from ..specs import EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from . import cache as commands_cache
from . import console
from . import measure as commands_measure
from . import plans as commands_plan
from . import recover as commands_recover
from . import reproduce as commands_reproduce
from . import sweep as commands_sweep
from .options import ExportFormat, with_specs
from .recover import RecoveryName, chosen_states, emit_figures

app = typer.Typer(
    help="LLM-BIP structured pruning of causal language models.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for commands in (
    commands_measure,
    commands_sweep,
    commands_plan,
    commands_recover,
    commands_reproduce,
    commands_cache,
):
    commands.register(app)

_INTERRUPTED = 130
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]


@app.command("score")
@with_specs("score", "maybe_plan")
def score_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    csv: Annotated[Path | None, typer.Option(help="Also write every score to a CSV file.")] = None,
    json: Json = False,
) -> None:
    """Score every head and channel; with --sparsity also say what would be removed."""
    from ..views.scores import scores_frame, summary_frame

    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        cached = pipeline.has_scores(score, plan)
        chosen = pipeline.plan(score, plan) if plan else None
        scores = pipeline.scores(score, plan)
    if csv:
        console.write_csv(scores_frame(scores, chosen), csv)
    table = summary_frame(scores, chosen)
    if not json:
        title = f"{score.criterion} scores of {score.model.name}"
        console.emit_frame(title, table)
        return
    blocks = [
        row | {"heads": of_block.heads.tolist(), "kv_groups": of_block.kv_groups.tolist()}
        for row, of_block in zip(table.to_dict("records"), scores.blocks, strict=True)
    ]
    facts = {"spec": asdict(score), "cached": cached, "fingerprint": scores.fingerprint}
    console.emit_json(facts | _plan_facts(chosen) | {"blocks": blocks})


@app.command("prune")
@with_specs("score", "plan", "evaluation")
def prune_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec,
    evaluation: EvaluationSpec,
    output: Annotated[Path, typer.Option(help="The folder to export to.")],
    format: ExportFormat = AUTO,
    evaluate: Annotated[
        bool, typer.Option(help="Measure the perplexity before and after, for the model card.")
    ] = True,
    json: Json = False,
) -> None:
    """Prune a model and export it as a folder that stock transformers loads."""
    from ..store.files import check_destination

    check_destination(output)
    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        cached = pipeline.has_scores(score, plan)
        chosen = pipeline.plan(score, plan)
        wanted = evaluation if evaluate else None
        export = pipeline.export(score.model, chosen, output, evaluation=wanted, format=format)
        results = (
            [pipeline.evaluate(score.model, evaluation, which) for which in (None, chosen)]
            if evaluate
            else []
        )
    facts = {"spec": asdict(score), "cached": cached, **_plan_facts(chosen), **asdict(export)}
    for metric in chosen_metrics(evaluation.metrics):
        for name, result in zip(("before", "after"), results, strict=False):
            facts[f"{metric.name}_{name}"] = result[metric.name]
    if json:
        console.emit_json(facts)
    else:
        hidden = ("spec", "plan", "cached")
        shown = {name: value for name, value in facts.items() if name not in hidden}
        criterion = chosen.spec.get("criterion", "hand")
        console.emit_facts(f"{score.model.name}, pruned by {criterion}", shown)


@app.command("evaluate")
@with_specs("score", "maybe_plan", "evaluation")
def evaluate_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    evaluation: EvaluationSpec,
    recovery: RecoveryName = "",
    json: Json = False,
) -> None:
    """Perplexity of a model, with --sparsity of the pruned model beside it, and with --recovery
    of the pruned and of the recovered model."""
    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        chosen, recovered = chosen_states(pipeline, score, plan, recovery)
        results = {"dense": pipeline.evaluate(score.model, evaluation)}
        if chosen:
            results["pruned"] = pipeline.evaluate(score.model, evaluation, chosen)
        if recovered:
            results["recovered"] = pipeline.evaluate(score.model, evaluation, chosen, recovered)
    if json:
        console.emit_json({"spec": asdict(score), **_plan_facts(chosen), **results})
        return
    emit_figures(evaluation, results)


@app.command("profile")
@with_specs("model", "maybe_plan")
def profile_command(
    *,
    model: ModelSpec,
    plan: PlanSpec | None,
    seq_len: Annotated[int, typer.Option(help="Tokens in a sequence.")] = 512,
    batch_size: Annotated[int, typer.Option(help="Sequences in a forward pass.")] = 1,
    repeats: Annotated[int, typer.Option(help="Forward passes; the median counts.")] = 5,
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


@app.command("generate")
@with_specs("score", "maybe_plan")
def generate_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    prompt: Annotated[str, typer.Option(help="What to continue.")],
    max_new_tokens: Annotated[int, typer.Option(help="At most so many new tokens.")] = 64,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token.")] = 0.0,
    top_k: Annotated[int, typer.Option(help="Sample from the k likeliest; 0: from all.")] = 0,
    top_p: Annotated[float, typer.Option(help="Sample from this much probability.")] = 1.0,
    sampling_seed: Annotated[int, typer.Option(help="Seed of the sampling.")] = 0,
    chat: Annotated[bool, typer.Option(help="Use the chat template, if there is one.")] = True,
    recovery: RecoveryName = "",
    json: Json = False,
) -> None:
    """Continue a prompt with a model, with --sparsity with the pruned model, too, and with
    --recovery with the pruned and the recovered model."""
    from ..models.generation import Sampling

    sampling = Sampling(max_new_tokens, temperature, top_k, top_p, sampling_seed, chat)
    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        chosen, recovered = chosen_states(pipeline, score, plan, recovery)
        results = {}
        for state in pipeline.generate(score.model, chosen, prompt, sampling, recovered):
            results |= state
            tokens = max(result.tokens for result in state.values())
            progress(tokens / max_new_tokens, "Generating")
    rates = {name: {"tokens_per_second": r.tokens_per_second} for name, r in results.items()}
    if json:
        texts = {name: asdict(r) | rates[name] for name, r in results.items()}
        console.emit_json({"prompt": prompt, **_plan_facts(chosen), **texts})
        return
    for name, result in results.items():
        rate = result.tokens_per_second
        speed = f", {rate:.1f} tokens/s" if rate else ""
        console.emit_text(f"{name} ({result.tokens} tokens{speed})", result.text)


def _plan_facts(plan: PruningPlan | None) -> dict:
    return commands_plan.plan_facts(plan) if plan else {}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; the exit status: 0, or 2 with one sentence on stderr."""
    console.quiet_libraries()
    arguments = sys.argv[1:] if arguments is None else arguments
    command = typer.main.get_command(app)
    try:
        status = command.main(
            args=arguments or ["--help"], prog_name="bipcore", standalone_mode=False
        )
    except (KeyboardInterrupt, typer.Abort):
        status = _INTERRUPTED
    except typer.TyperException as error:
        console.fail(error.format_message())
        return 2
    except Exception as error:
        sentence = explain(error)
        if sentence is None:
            raise
        console.fail(sentence)
        return 2
    if status == _INTERRUPTED:  # typer gives it back instead of raising
        console.fail("Interrupted; what was stored before is kept.")
    return status or 0
