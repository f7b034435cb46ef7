"""The commands ``compare`` and ``plan``: what criteria remove, and plans as files."""

import functools
import inspect
from collections.abc import Callable
from dataclasses import asdict, astuple, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..criteria import COMPARED, Scores
from ..errors import InputError, short
from ..pipeline.pipeline import Pipeline
from ..pipeline.searching import WidthSearch, search_widths
from ..pruning import editing
from ..pruning.plan import PruningPlan, check_plan_file, load_plan, write_plan
from ..pruning.targets import read_target
from ..settings import join_list, parse_list
from ..specs import PlanSpec, ScoreSpec
from . import console
from .console import plan_facts
from .options import MOST, Force, Json, with_specs
from .outputs import check_outputs

plan_app = typer.Typer(help="Plans as files: make, show, compare and edit them.")
PlanFile = Annotated[Path, typer.Argument(help="A plan file, or the folder of an export.")]
Output = Annotated[Path, typer.Option(help="The plan file to write.")]
PlanTarget = Annotated[
    str | None,
    typer.Option(
        help="In place of a sparsity: what the pruned model has at most, "
        "params=60M, params=50%, bytes=100MB@q8_0, macs=40G (of 512 tokens) or "
        "latency=30ms@128 (a token of greedy decoding behind 128 tokens, by times that are "
        "measured on this device once). By --criterion obs-fisher the widths with the least "
        "predicted loss are chosen from its curves, by another the allocation has them."
    ),
]
SearchSteps = Annotated[
    int | None,
    typer.Option(
        help="Go on from that plan by so many trials: widths are moved from sublayers that "
        "need them less to others, at the same cost, and kept where the divergence from the "
        "dense model falls on calibration text that is held out. Every step is stored.",
        min=1,
        max=MOST,
    ),
]
SearchSamples = Annotated[
    int, typer.Option(help="How many samples are held out for --search.", min=1, max=MOST)
]


def without(*names: str, **changed: tuple[Any, Any]) -> Callable[[Callable], Callable]:
    """Take the options ``names`` of a command away: it gets their defaults.

    ``changed``: options that get another annotation and default.
    """

    def decorate(command: Callable) -> Callable:
        given = inspect.signature(command).parameters
        fixed = {name: given[name].default for name in names}
        parameters = [
            p.replace(annotation=changed[p.name][0], default=changed[p.name][1])
            if p.name in changed
            else p
            for p in given.values()
            if p.name not in names
        ]

        @functools.wraps(command)
        def shorter(**values: Any) -> None:
            command(**fixed, **values)

        del shorter.__wrapped__
        shorter.__signature__ = inspect.Signature(parameters)
        shorter.__annotations__ = {p.name: p.annotation for p in parameters}
        return shorter

    return decorate


@without("criterion", "option", "source")
@with_specs("score", "plan")
def compare_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec,
    criteria: Annotated[
        str, typer.Option(help="Two criteria or more, with commas between.")
    ] = join_list(COMPARED),
    csv: Annotated[
        Path | None, typer.Option(help="Also write the figures of every block to a CSV file.")
    ] = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Where criteria agree: the order of their scores, and what their plans remove.

    The rank correlation is Spearman's, of the scores within a block, and the mean over the
    blocks. The share is of what two plans remove on average, beside what chance alone would give.
    """
    from ..pruning.comparison import compare_criteria, over_all_blocks

    check_outputs(csv=csv, force=force)
    names = parse_list(criteria, str, "criteria")
    if len(names) < 2 or len(set(names)) < len(names):
        raise InputError("A comparison takes two different criteria or more.")
    scored = {}
    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        for name in names:
            spec = replace(score, criterion=name)
            chosen = pipeline.plan(spec, plan)  # an impossible one is refused before it is scored
            scored[name] = pipeline.scores(spec, plan), chosen
    by_block = compare_criteria(scored)
    overall = over_all_blocks(by_block)
    if csv:
        console.write_csv(by_block, csv)
    if json:
        plans = {name: plan_facts(chosen) for name, (_, chosen) in scored.items()}
        rows = {"overall": overall.to_dict("records"), "blocks": by_block.to_dict("records")}
        console.emit_json({"model": score.model.name, "plans": plans, **rows})
    else:
        shown = ["first", "second", "kind", "rank_correlation", "share", "share_chance", "jaccard"]
        console.emit_frame(f"Criteria on {score.model.name}", overall[shown])


@plan_app.command("make")
@without("source")
@with_specs("score", "plan")
def make_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec,
    output: Output,
    target: PlanTarget = None,
    search: SearchSteps = None,
    search_samples: SearchSamples = 8,
    force: Force = False,
    json: Json = False,
) -> None:
    """Write the plan of these settings to a file, for --plan of other commands and plan edit."""
    check_plan_file(output, force=force)
    wanted = read_target(target) if target is not None else None
    further = WidthSearch(search, search_samples) if search is not None else None
    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        if wanted is None:
            chosen = pipeline.plan(score, plan)
        else:
            chosen = pipeline.plans.budgeted(score, plan, wanted)
        if further is not None:
            chosen = search_widths(pipeline.plans, score, plan, chosen, further, wanted)
    _emit_written(chosen, write_plan(chosen, output, force=force), json=json)


@plan_app.command("show")
def show_command(*, file: PlanFile, json: Json = False) -> None:
    """What a plan keeps of every block, and where it came from."""
    plan = load_plan(file)
    after = plan.pruned_shape.blocks
    if json:
        blocks = [
            {"block": index, "before": asdict(was), "after": asdict(now), "kept": keep.heads}
            for index, (keep, was, now) in enumerate(
                zip(plan.blocks, plan.shape.blocks, after, strict=True)
            )
        ]
        console.emit_json({"file": str(file), **plan_facts(plan), "blocks": blocks})
        return
    _emit_plan(str(file), plan)
    rows = [
        [
            index,
            *(f"{kept} of {width}" for kept, width in zip(astuple(now), astuple(was), strict=True)),
        ]
        for index, (was, now) in enumerate(zip(plan.shape.blocks, after, strict=True))
    ]
    console.emit_table("Kept", ["Block", "Query heads", "Key/value heads", "FFN channels"], rows)


@plan_app.command("diff")
def diff_command(
    *,
    first: Annotated[Path, typer.Argument(help="A plan file, or the folder of an export.")],
    second: Annotated[Path, typer.Argument(help="Another one, for the same model.")],
    json: Json = False,
) -> None:
    """What one plan keeps and another does not, block by block."""
    from ..pruning.comparison import compare_plans

    plans = load_plan(first), load_plan(second)
    frame = compare_plans(*plans)
    if json:
        facts = {name: plan_facts(p) for name, p in zip(("first", "second"), plans, strict=True)}
        console.emit_json({**facts, "blocks": frame.to_dict("records")})
        return
    indices = ["only_first_removes", "only_second_removes"]
    differs = frame[(frame["only_first"] > 0) | (frame["only_second"] > 0)]
    if differs.empty:
        console.emit_text(f"{first} and {second}", "They keep the same heads and channels.")
        return
    shown = differs.assign(**{name: differs[name].map(_shortened) for name in indices})
    console.emit_frame(f"{first} and {second}, where they differ", shown)


_MODEL = Annotated[
    str | None,
    typer.Option(
        help="The plan's model: what goes or comes back with a head, and --channels, follow its "
        "scores by the plan's own criterion. Without it heads are chosen by index."
    ),
]


def _edit(form: str, what: str) -> Any:
    return Annotated[list[str] | None, typer.Option(metavar=form, help=f"{what} May be repeated.")]


@plan_app.command("edit")
@without("criterion", "option", model=(_MODEL, None))
@with_specs("score")
def edit_command(
    *,
    score: ScoreSpec,
    file: PlanFile,
    output: Output,
    protect_block: _edit("BLOCK", "Keep everything of a block.") = None,
    drop_attention: _edit("BLOCK", "Remove the attention of a block.") = None,
    drop_ffn: _edit("BLOCK", "Remove the FFN of a block.") = None,
    channels: _edit("BLOCK:COUNT", "Keep so many FFN channels of a block, by score.") = None,
    keep_head: _edit("BLOCK:HEAD", "Bring a query head back.") = None,
    drop_head: _edit("BLOCK:HEAD", "Remove a query head.") = None,
    keep_channel: _edit("BLOCK:CHANNEL", "Bring an FFN channel back.") = None,
    drop_channel: _edit("BLOCK:CHANNEL", "Remove an FFN channel.") = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Change a plan by hand; the edits are made in the order in which they are listed here.

    Where query heads share key/value heads, others go or come back with one. The plan says in
    words what was done to it, and so does the plan.json of every export.
    """
    given = locals()
    wanted = [(name, word) for name in _STEPS for word in given[name] or ()]
    if not wanted:
        raise InputError("There is nothing to change; give at least one edit.")
    plan = load_plan(file)
    check_plan_file(output, force=force)
    scores = _scores_for(plan, score) if score.model.name is not None else None
    for name, word in wanted:
        plan = _STEPS[name](plan, scores, *_numbers(name, word))
    _emit_written(plan, write_plan(plan, output, force=force), json=json)


def _keep_count(plan: PruningPlan, scores: Scores | None, block: int, count: int) -> PruningPlan:
    if scores is None:
        raise InputError("A number of channels is kept by score; say the model with --model.")
    return editing.keep_channel_count(plan, block, count, scores)


_STEPS: dict[str, Callable[..., PruningPlan]] = {
    "protect_block": lambda plan, scores, block: editing.protect_block(plan, block),
    "drop_attention": lambda plan, scores, block: editing.drop_attention(plan, block),
    "drop_ffn": lambda plan, scores, block: editing.drop_ffn(plan, block),
    "channels": _keep_count,
    "keep_head": lambda plan, scores, block, head: editing.keep_head(plan, block, head, scores),
    "drop_head": lambda plan, scores, block, head: editing.drop_head(plan, block, head, scores),
    "keep_channel": lambda plan, scores, block, one: editing.keep_channels(plan, block, [one]),
    "drop_channel": lambda plan, scores, block, one: editing.drop_channels(plan, block, [one]),
}
"""Edits by the name of their option, the coarse ones first."""

_BLOCKS_ONLY = ("protect_block", "drop_attention", "drop_ffn")


def _numbers(name: str, word: str) -> list[int]:
    """The numbers of one edit: "3" or "3:5"."""
    numbers = word.split(":")
    if len(numbers) != (1 if name in _BLOCKS_ONLY else 2) or not all(
        number.isascii() and number.isdecimal() and len(number) < 10 for number in numbers
    ):
        form = "a block, such as 3" if name in _BLOCKS_ONLY else "two numbers, such as 3:5"
        raise InputError(f"--{name.replace('_', '-')} takes {form}, not {short(repr(word))}.")
    return [int(number) for number in numbers]


def _scores_for(plan: PruningPlan, score: ScoreSpec) -> Scores:
    """The scores of the plan's model by the plan's own criterion and options."""
    criterion = str(plan.spec.get("criterion", score.criterion))
    options = plan.spec.get("options")
    pairs = tuple(options.items()) if isinstance(options, dict) else ()
    with console.progress_bar() as progress:
        pipeline = Pipeline(progress=progress)
        scores = pipeline.scores(replace(score, criterion=criterion, options=pairs))
    editing.check_scores(plan, scores)
    return scores


def _shortened(indices: tuple[int, ...], most: int = 8) -> str:
    words = [str(index) for index in indices[:most]]
    more = len(indices) - most
    return ", ".join(words + ([f"and {more:,} more"] if more > 0 else []))


def _emit_written(plan: PruningPlan, path: Path, *, json: bool) -> None:
    if json:
        console.emit_json({"file": str(path), **plan_facts(plan)})
    else:
        _emit_plan(str(path), plan)


def _said_latency(timed: dict) -> str:
    """What was asked for, predicted and measured."""
    asked, predicted, measured, dense = (
        f"{timed[name]:.3g}" for name in ("asked", "predicted", "measured", "dense")
    )
    return (
        f"Asked {asked} ms, predicted {predicted} ms, measured {measured} ms; the dense model "
        f"{dense} ms.\nDecoding one sequence behind {timed['context']} tokens in {timed['dtype']} "
        f"on {timed['device']}, {timed['threads']} threads."
    )


def _said_search(found: dict) -> str:
    """How far it went."""
    return (
        f"{found['steps']:,} trials on {found['tokens']:,} held-out tokens brought the divergence "
        f"from the dense model from {found['divergence_before']:.4f} to "
        f"{found['divergence']:.4f} nats a token."
    )


def _emit_plan(title: str, plan: PruningPlan) -> None:
    """The plan as facts, then what was changed by hand."""
    facts = plan_facts(plan)
    apart = ("edited", "latency", "search")
    said = {name: value for name, value in facts.pop("plan").items() if name not in apart}
    console.emit_facts(title, said | facts)
    if timed := plan.spec.get("latency"):
        console.emit_text("Milliseconds a token", _said_latency(timed))
    if found := plan.spec.get("search"):
        console.emit_text("Searched", _said_search(found))
    if changes := editing.edits(plan):
        console.emit_text("Changed by hand", "\n".join(changes))
