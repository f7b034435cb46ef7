"""What the worker does for the pages: functions of plain arguments, then a pipeline and a job.

They run in a process of their own, so arguments and results are things that can be sent to it and
back, and nothing here knows Streamlit: a page gives a `functools.partial` of one of them.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bipcore.evaluation.depth import Depth
from bipcore.evaluation.reconstruction import ReconstructionErrors
from bipcore.export.export import Export
from bipcore.models.generation import Generated, Sampling
from bipcore.models.identity import known_content
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.recoveries import Recovery, State
from bipcore.pipeline.searching import WidthSearch, search_widths
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.targets import Target
from bipcore.recovery.training import Step
from bipcore.specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
)

from .passages import Asked, Changes, compare_states


class Reporter(Protocol):
    """The side of a job that its work sees."""

    partial: Any
    """What there is so far, for the page to show."""

    def report(self, fraction: float, message: str) -> None:
        """Say how far it is; raises Cancelled where it is to stop."""


def read_content(name: str, pipeline: Pipeline, job: Reporter) -> None:
    """See what the files of a model hold, which is kept beside them."""
    known_content(name)


def let_go(pipeline: Pipeline, job: Reporter) -> None:
    """Keep no model in memory."""
    pipeline.bench.kept.clear()


def score(spec: ScoreSpec, plan: PlanSpec, pipeline: Pipeline, job: Reporter) -> None:
    """Store the scores that a page reads then."""
    pipeline.scores(spec, plan)


def make_curves(spec: ScoreSpec, pipeline: Pipeline, job: Reporter) -> None:
    """Store the curves that the page Budget reads then."""
    pipeline.plans.curves(spec)


def search(
    spec: ScoreSpec,
    settings: PlanSpec,
    plan: PruningPlan,
    search: WidthSearch,
    target: Target,
    pipeline: Pipeline,
    job: Reporter,
) -> PruningPlan:
    """The plan that a search of widths finds from ``plan``."""
    return search_widths(pipeline.plans, spec, settings, plan, search, target)


def measure_both(
    model: ModelSpec, text: EvaluationSpec, plan: PruningPlan, pipeline: Pipeline, job: Reporter
) -> tuple[dict, dict]:
    """The metrics of the dense model and of the pruned one."""
    return pipeline.evaluate(model, text), pipeline.evaluate(model, text, plan)


def measure_plans(
    model: ModelSpec,
    text: EvaluationSpec,
    plans: Mapping[str, PruningPlan],
    pipeline: Pipeline,
    job: Reporter,
) -> dict[str, dict]:
    """The metrics of the dense model, called "dense", and of each plan's."""
    found = {"dense": pipeline.evaluate(model, text)}
    return found | {name: pipeline.evaluate(model, text, plan) for name, plan in plans.items()}


def measure_each(
    model: ModelSpec,
    texts: Iterable[EvaluationSpec],
    states: Mapping[str, State],
    pipeline: Pipeline,
    job: Reporter,
) -> list[dict[str, dict]]:
    """Of every text, by the title of a state, its metrics."""
    return [
        {title: pipeline.evaluate(model, text, *state) for title, state in states.items()}
        for text in texts
    ]


def reconstruct(
    model: ModelSpec,
    plans: Mapping[str, PruningPlan],
    text: EvaluationSpec,
    pipeline: Pipeline,
    job: Reporter,
) -> dict[str, ReconstructionErrors]:
    """The errors of every plan."""
    return pipeline.reconstruction(model, plans, text)


def export(
    model: ModelSpec,
    plan: PruningPlan,
    folder: str,
    options: Mapping[str, Any],
    pipeline: Pipeline,
    job: Reporter,
) -> Export:
    """Write the pruned model; ``options`` are those of `Pipeline.export`."""
    return pipeline.export(model, plan, folder, **options)


def train(
    model: ModelSpec, plan: PruningPlan, spec: RecoverySpec, pipeline: Pipeline, job: Reporter
) -> Recovery:
    """Train the pruned model, its history being what there is so far."""

    def watch(history: tuple[Step, ...]) -> None:
        job.partial = history

    pipeline.check_recovery(model, spec)
    return pipeline.recover(model, plan, spec, watch=watch)


def generate(
    model: ModelSpec,
    plan: PruningPlan,
    prompt: str,
    sampling: Sampling,
    recovery: RecoverySpec | None,
    pipeline: Pipeline,
    job: Reporter,
) -> dict[str, Generated]:
    """The continuations of all states of the model, which grow."""
    for state in pipeline.generate(model, plan, prompt, sampling, recovery):
        job.partial = state
        tokens = max(result.tokens for result in state.values())
        job.report(tokens / sampling.max_new_tokens, "Generating")
    return job.partial


def one_by_one(
    results: Callable[..., Iterable[Any]], *arguments: Any
) -> Callable[[Pipeline, Reporter], tuple]:
    """The work that keeps every result of ``results(pipeline, *arguments)`` when it comes in."""
    return OneByOne(results, arguments)


@dataclass(frozen=True)
class OneByOne:
    """See `one_by_one`."""

    results: Callable[..., Iterable[Any]]
    arguments: tuple[Any, ...] = ()

    def __call__(self, pipeline: Pipeline, job: Reporter) -> tuple:
        for result in self.results(pipeline, *self.arguments):
            job.partial = (*(job.partial or ()), result)
        return job.partial


def close_up_of_head(
    model: ModelSpec,
    block: int,
    head: int,
    spec: EvaluationSpec,
    text: str,
    pipeline: Pipeline,
    job: Reporter,
) -> None:
    """Store what the page Close-up reads then, of a head."""
    pipeline.head_close_up(model, block, head, spec, own=text)


def close_up_of_channel(
    model: ModelSpec,
    calibration: CalibrationSpec,
    block: int,
    channel: int,
    spec: EvaluationSpec,
    text: str,
    pipeline: Pipeline,
    job: Reporter,
) -> None:
    """Store what the page Close-up reads then, of a channel."""
    pipeline.channel_close_up(model, calibration, block, channel, spec, own=text)


def compare_on_text(
    model: ModelSpec,
    asked: Asked,
    states: Mapping[str, State],
    pipeline: Pipeline,
    job: Reporter,
) -> list[Changes]:
    """Where the models of all ``states``, by their title, part from the dense one on a text."""
    return compare_states(pipeline, model, asked, states)


def compare_by_depth(
    model: ModelSpec,
    limit: EvaluationSpec,
    plan: PruningPlan,
    recovery: RecoverySpec | None,
    text: str,
    pipeline: Pipeline,
    job: Reporter,
) -> Depth:
    """How far the two models are apart after every block, on ``text``."""
    return pipeline.depth(model, limit, plan, recovery, own=text)
