"""The command ``shrink``: from a target to a smaller model, with a report, in one go."""

import inspect
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..export.export import Export
from ..export.formats import AUTO, find_kind
from ..export.places import check_target
from ..pipeline.pipeline import Pipeline
from ..pipeline.recoveries import Recovery, states_of
from ..pipeline.searching import WidthSearch
from ..pipeline.shrinking import Candidate, best_plan
from ..progress import Progress
from ..pruning.targets import Target, read_target
from ..settings import settings_of
from ..specs import EvaluationSpec, PlanSpec, RecoverySpec, ScoreSpec
from . import console
from .console import plan_facts
from .fitting import fitting
from .options import MOST, ExportFormat, Force, Json, Quantize, SaveType, with_specs
from .outputs import check_outputs, show_smaller
from .plans import without
from .recover import GradientCheckpointing, MicroBatch, emit_figures
from .repeat import command, words_of, words_of_scores


def _defaults(**values: Any) -> Callable[[Callable], Callable]:
    """Give options of a command other defaults."""

    def decorate(function: Callable) -> Callable:
        signature = inspect.signature(function)
        changed = [
            one.replace(default=values.get(name, one.default))
            for name, one in signature.parameters.items()
        ]
        function.__signature__ = signature.replace(parameters=changed)
        return function

    return decorate


Wanted = Annotated[
    str,
    typer.Option(
        "--target",
        help="What the smaller model has at most: params=50%, bytes=100MB@q8_0, macs=40G or "
        "latency=30ms, as plan make has it.",
    ),
]
Folder = Annotated[Path, typer.Option(help="The folder to export to, or the GGUF file.")]
Tokens = Annotated[
    int, typer.Option(help="Train on so many tokens of the calibration text; 0: not.", max=MOST)
]
Search = Annotated[
    int, typer.Option(help="Search the widths by so many trials; 0: not.", min=0, max=MOST)
]
SearchSamples = Annotated[
    int, typer.Option(help="Samples held out to choose the widths by.", min=1, max=MOST)
]
RoundTo = Annotated[int, typer.Option(help="FFN widths become multiples of it.", min=1, max=MOST)]
Deployable = Annotated[
    str, typer.Option(help=settings_of(PlanSpec)["deployable"].help, show_default=False)
]
ReportFile = Annotated[
    Path | None, typer.Option(help="Write the report here (default: OUTPUT.html).")
]


@dataclass(frozen=True)
class _Asked:
    """What is asked for. ``training`` is None where nothing is trained, ``how`` is that of
    `Pipeline.recover`, ``written`` how the export is."""

    score: ScoreSpec
    target: Target
    search: WidthSearch
    round_to: int
    deployable: str
    training: RecoverySpec | None
    how: dict[str, Any]
    text: EvaluationSpec
    output: Path
    written: dict[str, str]


@dataclass(frozen=True)
class _Found:
    """What came of it; ``trained`` is None where nothing was."""

    best: Candidate
    candidates: tuple[Candidate, ...]
    trained: Recovery | None
    figures: dict[str, dict]
    export: Export


@_defaults(
    train="blocks",
    learning_rate=3e-4,
    batch_size=1,
    warmup=0.05,
    validation=8,
    validate_every=50,
    metrics="perplexity,kl,agreement",
)
@without("criterion", "option", "train_text", "train_samples")
@with_specs("score", "recovery", "evaluation")
def shrink_command(
    *,
    score: ScoreSpec,
    recovery: RecoverySpec,
    evaluation: EvaluationSpec,
    wanted: Wanted,
    output: Folder,
    tokens: Tokens = 500_000,
    search: Search = 150,
    search_samples: SearchSamples = 8,
    round_to: RoundTo = 1,
    deployable: Deployable = "",
    micro_batch: MicroBatch = None,
    gradient_checkpointing: GradientCheckpointing = None,
    format: ExportFormat = AUTO,
    save_dtype: SaveType = "auto",
    quantize: Quantize = AUTO,
    report: ReportFile = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Make a model smaller: score, choose widths, prune, train, measure, export and report.

    Of two ways to the target, the same widths everywhere and those of the least predicted loss, the
    one whose model is nearer to the dense one on held-out text is taken, its widths searched, and
    what was cut trained towards the dense model. Stopped at any moment and started again with the
    same settings, it goes on; the report says the commands of each step.
    """
    report = Path(f"{output}.html") if report is None else report
    check_target(output, format)
    check_outputs(report=report, force=force)
    asked = _Asked(
        score=score,
        target=read_target(wanted),
        search=WidthSearch(search, search_samples),
        round_to=round_to,
        deployable=PlanSpec(deployable=deployable).deployable,
        training=_training(score, recovery, tokens),
        how={"micro_batch": micro_batch, "gradient_checkpointing": gradient_checkpointing},
        text=evaluation,
        output=output,
        written={"format": format, "save_dtype": save_dtype, "quantize": quantize},
    )
    find_kind(format, quantize, save_dtype)
    with console.progress_bar() as progress:
        found = _shrink(asked, _ready(progress, asked))
    _tell(asked, found, report, json=json)


def _training(score: ScoreSpec, recovery: RecoverySpec, tokens: int) -> RecoverySpec | None:
    """The training on about so many tokens of the calibration text; None for 0."""
    if not tokens:
        return None
    if tokens < recovery.seq_len:
        raise InputError(
            f"Training on {tokens} tokens is less than one sample of {recovery.seq_len}; train on "
            "more, on shorter samples (--train-seq-len), or not (--tokens 0)."
        )
    calibration = score.calibration
    return replace(
        recovery,
        source=calibration.source,
        text_field=calibration.text_field,
        samples=tokens // recovery.seq_len,
    )


def _ready(progress: Progress, asked: _Asked) -> Pipeline:
    """A pipeline, if what is asked for fits and there is text enough; raises InputError."""
    asked.text.identity()  # refuses a text that is not there before hours of work
    if asked.training is None:
        return fitting(progress, "prune", asked.score, PlanSpec(), text=asked.text)
    how = {"gradient_checkpointing": asked.how["gradient_checkpointing"]}
    pipeline = fitting(progress, "recover", asked.score, PlanSpec(), recovery=asked.training, **how)
    pipeline.check_recovery(asked.score.model, asked.training)
    return pipeline


def _shrink(asked: _Asked, pipeline: Pipeline) -> _Found:
    model, training, done = asked.score.model, asked.training, None
    with pipeline.progress.within(0.0, 0.3):
        wanted = asked.target, asked.search, asked.round_to, asked.deployable
        best, candidates = best_plan(pipeline, asked.score, *wanted)
    if training is not None:
        with pipeline.progress.within(0.3, 0.8):
            done = pipeline.recover(model, best.plan, training, **asked.how)
    with pipeline.progress.within(0.8, 1.0):
        states = states_of(best.plan, training)
        figures = {
            name: pipeline.evaluate(model, asked.text, *state) for name, state in states.items()
        }
        settled = {"evaluation": asked.text, "recovery": training, **asked.written}
        export = pipeline.export(model, best.plan, asked.output, **settled)
    return _Found(best, candidates, done, figures, export)


def _steps(asked: _Asked, best: Candidate) -> dict[str, str]:
    """What each step is by itself, as a line for a shell, by what it does."""
    search, training = asked.search, asked.training
    plan = ["plan", "make", *words_of_scores(best.score), "--criterion", best.score.criterion]
    plan += [*words_of(best.settings), "--target", asked.target.text]
    if search.steps and best.plan.spec["search"]["steps"]:
        plan += ["--search", str(search.steps), "--search-samples", str(search.samples)]
    model = [asked.score.model.name, *words_of(asked.score.model)]
    last = ["prune" if training is None else "recover", *model, "--plan", "plan.json"]
    last += [*(words_of(training) if training else []), *words_of(asked.text)]
    last += ["--output", str(asked.output)]
    for name, value in asked.written.items():
        last += [f"--{name.replace('_', '-')}", value]
    what = "Prune, measure and export" if training is None else "Train, measure and export"
    chosen = command(*plan, "--output", "plan.json")
    return {"Choose the widths": chosen, what: command(*last)}


def _tell(asked: _Asked, found: _Found, report: Path, *, json: bool) -> None:
    """Write the report, and print what came of it."""
    steps = _steps(asked, found.best)
    _write_report(report, asked, found, steps)
    _show(asked, found, report, steps if json else None)


def _write_report(path: Path, asked: _Asked, found: _Found, steps: dict[str, str]) -> None:
    from ..views.report import write_report
    from ..views.shrunk import shrunk_sections

    plan, name = found.best.plan, asked.score.model.name
    done = (found.best, found.candidates, found.trained, asked.text, found.figures)
    opening = (
        f"{name} with {plan.realised_total:.1%} of its parameters removed: "
        f"{plan.pruned_shape.parameters / 1e6:,.1f} million are left."
    )
    write_report(path, f"{name}, made smaller", shrunk_sections(*done, steps), opening=opening)


def _show(asked: _Asked, found: _Found, report: Path, steps: dict[str, str] | None) -> None:
    """Print what came of it; as JSON where the ``steps`` are given."""
    facts, export = plan_facts(found.best.plan), asdict(found.export)
    if steps is not None:
        ways = {one.score.criterion: one.divergence for one in found.candidates}
        facts |= {"candidates": ways, **found.figures, "export": export, "report": str(report)}
        console.emit_json(facts | {"commands": list(steps.values())})
        return
    said = {name: value for name, value in facts.items() if name != "plan"}
    console.emit_facts(f"{asked.score.model.name}, {asked.target.text}", said)
    emit_figures(asked.text, found.figures)
    console.emit_facts("Exported", export | {"report": str(report)})
    show_smaller(found.export)
