"""The command ``generate``: a prompt continued by the states of a model."""

from dataclasses import asdict
from typing import Annotated

import typer

from ..pipeline.pipeline import Pipeline
from ..specs import PlanSpec, ScoreSpec
from . import console
from .console import plan_facts
from .options import Json, with_specs
from .recover import RecoveryName, chosen_states


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
    recovery: RecoveryName = None,
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
        console.emit_json({"prompt": prompt, **plan_facts(chosen), **texts})
        return
    for name, result in results.items():
        rate = result.tokens_per_second
        speed = f", {rate:.1f} tokens/s" if rate else ""
        console.emit_text(f"{name} ({result.tokens} tokens{speed})", result.text)
