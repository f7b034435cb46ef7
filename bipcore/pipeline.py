"""From specs to results: the one orchestrator behind the command line and the pages.

Expensive results go through the run store; models are loaded when something has to be computed,
and kept. A `Pipeline` is used by one thread at a time.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from .adapters import Adapter
from .allocation import allocate, allocated_shape, resolve_unit
from .calibration import CalibrationSet, load_calibration
from .criteria import Scores, find_criterion, score
from .destination import check_destination
from .errors import InputError
from .evaluation import load_test_tokens, perplexity
from .export import Export, same_export, save_pruned
from .generation import Generated, Sampling, stream
from .licence import licence_of
from .models import DEMO, DEMO_HUB, empty_model, load_config, load_model
from .plan import PruningPlan, make_plan
from .profiling import Profile, profile_model, profile_shape
from .progress import Progress, part, silent
from .runs import RunStore, digest
from .slicing import apply_plan
from .specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from .statistics import Statistics, collect_statistics
from .stock import stock_problem


class Pipeline:
    """Computes results of specs, or reads them from ``store``.

    ``progress`` may be set anew before each call. The last model loaded and the last pruned
    model are kept in memory.
    """

    def __init__(self, store: RunStore | None = None, progress: Progress | None = None):
        self.store = store or RunStore()
        self.progress: Progress = progress or silent
        self._dense: tuple[str, nn.Module, Any] | None = None
        self._pruned: tuple[str, nn.Module] | None = None

    def model(self, spec: ModelSpec) -> tuple[nn.Module, Any]:
        """The dense model and its tokenizer, loaded again where its files have changed."""
        key = digest([asdict(spec), spec.identity()])
        if self._dense is None or self._dense[0] != key:
            self._dense = self._pruned = None  # free the old one before loading the new
            model, tokenizer = load_model(
                spec.name,
                device=spec.device,
                dtype=spec.dtype,
                store=self.store,
                progress=part(self.progress, 0.0, 0.2),
            )
            key = digest([asdict(spec), spec.identity()])  # a hub model's is known only now
            self._dense = (key, model, tokenizer)
        return self._dense[1], self._dense[2]

    def statistics(self, model: ModelSpec, calibration: CalibrationSpec) -> Statistics:
        """The statistics of one forward pass; every activation criterion reads the same."""

        def compute() -> tuple[dict, dict]:
            network, _ = self.model(model)
            tokens = self.calibration(model, calibration)
            batch = max(1, 4096 // calibration.seq_len)
            progress = part(self.progress, 0.25, 0.9)
            found = collect_statistics(network, tokens, batch_size=batch, progress=progress)
            return found.to_tensors(), {"fingerprint": found.fingerprint, "split": tokens.split}

        identity = {"model": model.identity(), "calibration": calibration.identity()}
        tensors, data = self.store.tensors("statistics", identity, compute)
        return Statistics.from_tensors(tensors, data["fingerprint"])

    def scores(self, spec: ScoreSpec) -> Scores:
        """The scores of every head and channel."""
        find_criterion(spec.criterion)
        self._ensure_content(spec.model)

        def compute() -> tuple[dict, dict]:
            found = self._compute_scores(spec)
            return found.to_tensors(), found.to_dict()

        tensors, data = self.store.tensors("scores", score_identity(spec), compute)
        return Scores.from_stored(tensors, data)

    def _ensure_content(self, spec: ModelSpec) -> None:
        """Fetch a hub model that is not here yet: results are kept by its content."""
        if spec.identity()["content"] is None:
            self.model(spec)

    def has_scores(self, spec: ScoreSpec) -> bool:
        """Whether `scores` would read the run store."""
        return self.store.find("scores", score_identity(spec)) is not None

    def _compute_scores(self, spec: ScoreSpec) -> Scores:
        criterion = find_criterion(spec.criterion)
        options = criterion.resolve(dict(spec.options))
        needs_pass = criterion.needs == "activations"
        statistics = self.statistics(spec.model, spec.calibration) if needs_pass else None
        model, _ = self.model(spec.model)
        tokens, start = None, 0.9
        if criterion.calibrated and not needs_pass:
            tokens, start = self.calibration(spec.model, spec.calibration), 0.25
        progress = part(self.progress, start, 1.0)
        return score(
            model,
            statistics,
            spec.criterion,
            calibration=tokens,
            progress=progress,
            **options,
        )

    def calibration(self, model: ModelSpec, spec: CalibrationSpec) -> CalibrationSet:
        """The token ids to calibrate ``model`` on."""
        _, tokenizer = self.model(model)
        self.progress(0.2, f"Tokenising {spec.source}")
        return load_calibration(tokenizer=tokenizer, **asdict(spec))

    def plan(self, spec: ScoreSpec, plan: PlanSpec) -> PruningPlan:
        """The plan of a spec. An impossible one is refused before anything is calibrated."""
        if not self.has_scores(spec):
            shape = Adapter(self.model(spec.model)[0]).shape
            settings = asdict(plan) | {"unit": resolve_unit(plan.unit, shape)}
            allocate(shape, **settings)
        return describe(make_plan(self.scores(spec), **asdict(plan)), spec)

    def pruned(self, spec: ModelSpec, plan: PruningPlan) -> nn.Module:
        """The model with ``plan`` applied."""
        key = digest([asdict(spec), spec.identity(), plan.to_json()])
        if self._pruned is None or self._pruned[0] != key:
            model, _ = self.model(spec)
            self._pruned = (key, apply_plan(model, plan))
        return self._pruned[1]

    def evaluate(
        self, spec: ModelSpec, evaluation: EvaluationSpec, plan: PruningPlan | None = None
    ) -> dict:
        """Perplexity of the dense model, or with ``plan`` of the pruned one: a dictionary with
        ``perplexity``, ``text``, ``window``, ``tokens``."""
        self._ensure_content(spec)

        def compute() -> dict:
            dense, tokenizer = self.model(spec)
            tokens = load_test_tokens(evaluation.text, tokenizer, max_tokens=evaluation.max_tokens)
            model = dense if plan is None else self.pruned(spec, plan)
            value = perplexity(
                model, tokens, window=evaluation.window, progress=part(self.progress, 0.2, 1.0)
            )
            return {"perplexity": value, **asdict(evaluation), "tokens": len(tokens)}

        identity = {
            "model": spec.identity(),
            "plan": None if plan is None else digest(plan.to_json()),
            "evaluation": evaluation.identity(),
        }
        return self.store.json("evaluations", identity, compute)

    def profile(
        self, spec: ModelSpec, plan: PlanSpec | None = None, **settings: Any
    ) -> tuple[Profile, Profile | None]:
        """The cost of the dense model and of the pruned one, by `profile_model` (``settings``).

        Measured anew each time: it depends on what else the machine is doing. What goes is
        chosen at random, since the cost depends on the widths alone.
        """
        model, _ = self.model(spec)
        dense = profile_model(model, progress=part(self.progress, 0.2, 0.6), **settings)
        if plan is None:
            return dense, None
        chosen = self.plan(ScoreSpec(spec, criterion="random"), plan)
        progress = part(self.progress, 0.6, 1.0)
        return dense, profile_model(self.pruned(spec, chosen), progress=progress, **settings)

    def profile_shapes(
        self, spec: ModelSpec, plan: PlanSpec | None = None, *, seq_len: int
    ) -> tuple[Profile, Profile | None]:
        """The same from the configuration alone: counts only, nothing is loaded or run."""
        shape = Adapter(empty_model(load_config(spec.name, store=self.store))).shape
        dense = profile_shape(shape, seq_len=seq_len)
        if plan is None:
            return dense, None
        settings = asdict(plan) | {"unit": resolve_unit(plan.unit, shape)}
        return dense, profile_shape(allocated_shape(shape, **settings), seq_len=seq_len)

    def generate(
        self, spec: ModelSpec, plan: PruningPlan | None, prompt: str, sampling: Sampling
    ) -> Iterator[dict[str, Generated]]:
        """Continue ``prompt`` with the dense model, and with ``plan`` the pruned one in turn.

        Yields the state of both ("dense", "pruned") after every round of one token each.
        """
        dense, tokenizer = self.model(spec)
        models = {"dense": dense}
        if plan is not None:
            models["pruned"] = self.pruned(spec, plan)
        streams = {name: stream(m, tokenizer, prompt, sampling) for name, m in models.items()}
        state: dict[str, Generated] = {}
        while streams:
            for name in list(streams):
                state[name] = next(streams[name])
                if state[name].done:
                    del streams[name]
            yield dict(state)

    def export(
        self,
        spec: ModelSpec,
        plan: PruningPlan,
        folder: str | Path,
        *,
        evaluation: EvaluationSpec | None = None,
    ) -> Export:
        """Export the pruned model; what is already there, whole and the same, is left as it is.

        With ``evaluation`` the card says the perplexity before and after.
        """
        check_destination(folder)
        self._ensure_content(spec)
        measured = evaluation.identity() if evaluation else None
        source = digest([spec.identity(), plan.to_json(), measured])
        if done := same_export(folder, source):
            return done
        dense, tokenizer = self.model(spec)
        if problem := stock_problem(plan, dense.config):
            raise InputError(problem)
        figures = self._figures(spec, plan, evaluation) if evaluation else None
        return save_pruned(
            self.pruned(spec, plan),
            tokenizer,
            folder,
            plan=plan,
            base_model=base_name(spec.name),
            licence=licence_of(spec.name, store=self.store),
            figures=figures,
            source=source,
            progress=part(self.progress, 0.8, 1.0),
        )

    @contextmanager
    def _within(self, start: float, end: float) -> Iterator[None]:
        """What is done within it reports from ``start`` to ``end``."""
        outer = self.progress
        self.progress = part(outer, start, end)
        try:
            yield
        finally:
            self.progress = outer

    def _figures(self, spec: ModelSpec, plan: PruningPlan, evaluation: EvaluationSpec) -> dict:
        with self._within(0.2, 0.5):
            before = self.evaluate(spec, evaluation)
        with self._within(0.5, 0.8):
            after = self.evaluate(spec, evaluation, plan)
        label = (
            f"Perplexity, {evaluation.text} test text, first {before['tokens']:,} tokens, "
            f"window {evaluation.window}"
        )
        return {label: (f"{before['perplexity']:.2f}", f"{after['perplexity']:.2f}")}


def score_identity(spec: ScoreSpec) -> dict:
    """What the scores of ``spec`` are a function of; one that is not calibrated does not depend
    on the calibration set."""
    criterion = find_criterion(spec.criterion)
    return {
        "model": spec.model.identity(),
        "calibration": spec.calibration.identity() if criterion.calibrated else None,
        "criterion": spec.criterion,
        "options": criterion.resolve(dict(spec.options)),
    }


def describe(plan: PruningPlan, spec: ScoreSpec) -> PruningPlan:
    """``plan`` with the names of its model and calibration text in its spec."""
    calibrated = find_criterion(spec.criterion).calibrated
    text = str(spec.calibration) if calibrated else "none"
    names = {"model": base_name(spec.model.name), "calibration_text": text}
    return replace(plan, spec={**plan.spec, **names})


def base_name(name: str) -> str:
    """The name that stands for the model ``name`` outside this machine."""
    return DEMO_HUB if name == DEMO else name
