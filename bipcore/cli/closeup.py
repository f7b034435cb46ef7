"""The commands ``head`` and ``channel``: one head, or one FFN channel, from near by."""

from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any

import typer

from ..errors import InputError
from ..evaluation.closeups import Promoted, Silenced
from ..pipeline.pipeline import Pipeline
from ..pruning.plan import PruningPlan
from ..pruning.standing import Fate, Standing
from ..specs import EvaluationSpec, PlanSpec, ScoreSpec
from . import console
from .console import plan_facts
from .fitting import fitting
from .options import MOST, Json, with_specs

BlockNumber = Annotated[int, typer.Option("--block", help="The block, counted from 0.", max=MOST)]
HeadNumber = Annotated[int, typer.Option("--head", help="The query head, from 0.", max=MOST)]
ChannelNumber = Annotated[
    int, typer.Option("--channel", help="The FFN channel, counted from 0.", max=MOST)
]
TextString = Annotated[
    str | None, typer.Option("--text-string", help="The text itself, in place of --text.")
]


@with_specs("score", "maybe_plan", "test_text")
def head_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    test_text: EvaluationSpec,
    block: BlockNumber,
    head: HeadNumber,
    text_string: TextString = None,
    json: Json = False,
) -> None:
    """One attention head of the dense model: what it attends to in a text, which tokens it
    promotes, how the loss rises without it, and its rank by every criterion that was scored.

    At most the first 256 tokens of the text are read. With --sparsity or --plan also whether it
    goes, and why. Of criteria only stored scores are read.
    """
    from ..views.closeups import strongest_frame

    _check_one_text(test_text, text_string)
    with console.progress_bar() as progress:
        pipeline = fitting(progress, "evaluate", score, plan, text=test_text)
        found = pipeline.head_close_up(score.model, block, head, test_text, own=text_string)
        placed = _placed(pipeline, score, plan, block, "head", head)
    if json:
        told = {one.name: getattr(found, one.name) for one in fields(found)}
        told |= {"pattern": found.pattern.tolist(), "block": block, "head": head}
        about = {"spec": asdict(score), "evaluation": _said(test_text, text_string)}
        console.emit_json(told | placed.facts | about)
        return
    title = f"Head {head} of block {block} of {score.model.name}"
    share = {"Share on the first token": f"{found.first_share:.1%}"}
    _emit_figures(title, {"Tokens": f"{len(found.tokens):,}"} | share, found.silenced)
    console.emit_frame("Strongest attention, the first token left out", strongest_frame(found))
    _emit_rest(found.promoted, placed)


@with_specs("score", "maybe_plan", "test_text")
def channel_command(
    *,
    score: ScoreSpec,
    plan: PlanSpec | None,
    test_text: EvaluationSpec,
    block: BlockNumber,
    channel: ChannelNumber,
    text_string: TextString = None,
    json: Json = False,
) -> None:
    """One FFN channel of the dense model: where in the calibration set it is most active, which
    tokens it promotes, how the loss of a text rises without it, and its rank by every criterion
    that was scored.

    At most the first 256 tokens of the text are read. With --sparsity or --plan also whether it
    goes, and why. Of criteria only stored scores are read.
    """
    from ..views.closeups import peaks_frame

    _check_one_text(test_text, text_string)
    with console.progress_bar() as progress:
        pipeline = fitting(progress, "evaluate", score, plan, text=test_text)
        asked = score.calibration, block, channel, test_text
        found = pipeline.channel_close_up(score.model, *asked, own=text_string)
        placed = _placed(pipeline, score, plan, block, "channel", channel)
    if json:
        told = asdict(found) | {"block": block, "channel": channel}
        about = {"spec": asdict(score), "evaluation": _said(test_text, text_string)}
        console.emit_json(told | placed.facts | about)
        return
    facts = {"Calibration tokens": f"{found.positions:,}", "Mean activation": f"{found.mean:.4g}"}
    title = f"Channel {channel} of block {block} of {score.model.name}"
    _emit_figures(title, facts | {"Tokens": f"{found.tokens:,}"}, found.silenced)
    console.emit_frame("Strongest activations", peaks_frame(found.peaks))
    _emit_rest(found.promoted, placed)


def _check_one_text(text: EvaluationSpec, own: str | None) -> None:
    if own is not None and text.text != EvaluationSpec().text:
        raise InputError("The text is either --text or --text-string; give one of them.")


@dataclass(frozen=True)
class _Placed:
    """Where a unit stands, and with a plan what that does with it."""

    standings: list[Standing]
    plan: PruningPlan | None
    fate: Fate | None

    @property
    def facts(self) -> dict[str, Any]:
        """The same as plain data."""
        said = {"goes": self.fate.goes, "why": self.fate.sentence} if self.fate else {}
        return {"standings": self.standings} | said | plan_facts(self.plan)


def _placed(
    pipeline: Pipeline, score: ScoreSpec, plan: PlanSpec | None, block: int, kind: str, number: int
) -> _Placed:
    chosen = why = None
    if plan is not None:
        chosen = pipeline.plan(score, plan)
        why = pipeline.fate(score, plan, chosen, block, kind, number)
    return _Placed(pipeline.standings(score, block, kind, number), chosen, why)


def _said(text: EvaluationSpec, own: str | None) -> dict[str, Any]:
    """The text that was read, for JSON."""
    return text.facts if own is None else text.facts | {"text": own}


def _emit_figures(title: str, facts: dict[str, str], silenced: Silenced) -> None:
    rises = {"Silenced by zero": silenced.by_zero, "Silenced by its mean": silenced.by_mean}
    said = {name: f"{value:+.4f} nats a token" for name, value in rises.items()}
    console.emit_facts(title, facts | {"Loss": f"{silenced.loss:.4f} nats a token"} | said)


def _emit_rest(promoted: Promoted, placed: _Placed) -> None:
    from ..views.closeups import promoted_frame, standings_frame

    console.emit_frame("Tokens it promotes", promoted_frame(promoted.up))
    console.emit_frame("Tokens it demotes", promoted_frame(promoted.down))
    if placed.standings:
        console.emit_frame("By the criteria that were scored", standings_frame(placed.standings))
    if placed.fate:
        console.emit_line(placed.fate.sentence)
