"""From a target to a smaller model, in one go: the best plan that is known for it, and training."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from ..evaluation.profiling import machine
from ..pruning.plan import PLANS, PruningPlan
from ..pruning.targets import Target
from ..settings import PRESETS
from ..specs import PlanSpec, ScoreSpec
from .pipeline import Pipeline
from .plans import by_predicted_loss
from .searching import WidthSearch, search_widths

_WIDTHS = {"flap": "the same widths in every block", "obs-fisher": "the least predicted loss"}


@dataclass(frozen=True)
class Candidate:
    """A way to a target: the scores and the settings that ``plan`` follows from, in ``words``."""

    words: str
    score: ScoreSpec
    settings: PlanSpec
    plan: PruningPlan

    @property
    def divergence(self) -> float:
        """Of the model that it leads to from the dense one, on held-out text, nats a token."""
        return self.plan.spec["search"]["divergence"]


def best_plan(
    pipeline: Pipeline,
    score: ScoreSpec,
    target: Target,
    search: WidthSearch,
    round_to: int = 1,
    deployable: str = "",
) -> tuple[Candidate, tuple[Candidate, ...]]:
    """The best plan that is known for ``target``, and the candidates it was chosen among.

    Of the preset recommended with the widths that meet the target, and of what obs-fisher's curves
    predict the least loss of, the one whose model is nearer to the dense one on held-out text is
    taken, and its widths searched. All is stored: once made, it is the same. The criterion of
    ``score`` does not count. With ``deployable``, as a `PlanSpec` has it, the plans are those that
    the program takes; where it has the same widths in every block, no block is protected, and none
    are searched. Raises InputError.
    """
    with pipeline.progress.within(0.0, 0.6):
        candidates = tuple(_candidates(pipeline, score, target, search, round_to, deployable))
    best = min(candidates, key=lambda one: one.divergence)
    if search.steps and pipeline.plans.takes_other_widths(best.score, best.settings):
        with pipeline.progress.within(0.6, 1.0):
            found = _planned(pipeline, best.score, best.settings, target, search)
            best = replace(best, plan=found)
    return best, candidates


def _candidates(
    pipeline: Pipeline,
    score: ScoreSpec,
    target: Target,
    search: WidthSearch,
    round_to: int,
    deployable: str,
) -> Iterator[Candidate]:
    recommended = dict(PRESETS["recommended"].values)
    recommended.pop("criterion")
    settings = PlanSpec(**recommended, round_to=round_to, deployable=deployable)
    if not pipeline.plans.takes_other_widths(score, settings):
        settings = replace(settings, protect_first=0)
    for number, (criterion, words) in enumerate(_WIDTHS.items()):
        scored = replace(score, criterion=criterion, options=())
        with pipeline.progress.share(number, len(_WIDTHS)):
            plan = _planned(pipeline, scored, settings, target, replace(search, steps=0))
        yield Candidate(words, scored, settings, plan)


def _planned(
    pipeline: Pipeline, score: ScoreSpec, settings: PlanSpec, target: Target, search: WidthSearch
) -> PruningPlan:
    """The plan for the target with its widths searched by so many steps; read where it is
    stored."""
    pipeline.bench.ensure_content(score.model)

    def make() -> PruningPlan:
        start = pipeline.plans.budgeted(score, settings, target)
        return search_widths(pipeline.plans, score, settings, start, search, target)

    identity: dict[str, Any] = {
        "model": score.model.identity(),
        "calibration": score.calibration.identity(),
        "criterion": score.criterion,
        "settings": _what_counts(settings),
        "target": target.text,
        "search": asdict(search),
    }
    if by_predicted_loss(score) and not pipeline.plans.takes_other_widths(score, settings):
        identity |= {"widths": "alike, by predicted loss"}
    if target.kind == "latency":
        identity |= machine(score.model.device)
    return pipeline.store.get(PLANS, identity, make)


def _what_counts(settings: PlanSpec) -> dict[str, Any]:
    """Without the program where there is none, as plans were stored before there were any."""
    said = asdict(settings)
    return {name: value for name, value in said.items() if name != "deployable" or value}
