"""From specs to scores, plans and pruned models: the first half of the `Pipeline`."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor, nn

from ..criteria import Criterion, Scores, find_criterion, score
from ..criteria.statistics import Statistics, collect_statistics
from ..data.calibration import CalibrationSet, load_calibration
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.loading import load_model
from ..progress import Progress, Tracker
from ..pruning.compensation import (
    SecondMoments,
    check_free,
    collect_second_moments,
    compensate,
    second_moment_bytes,
)
from ..pruning.plan import PruningPlan, load_plan, make_plan
from ..pruning.propagation import score_pruned
from ..pruning.slicing import apply_plan, check_fits
from ..specs import CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec
from ..store.resume import StoredJournal
from ..store.runs import RunStore, digest
from .provenance import (
    check_plan,
    compensated_on,
    describe,
    is_propagated,
    score_identity,
    search_identity,
)


class Preparation:
    """Computes results of specs, or reads them from ``store``.

    ``progress`` is told how far the work is, and never goes back. The last model loaded, and the
    last that was pruned and recovered from it, are kept in memory.
    """

    def __init__(self, store: RunStore | None = None, progress: Progress | None = None):
        self.store = store or RunStore()
        self.progress = Tracker(progress)
        self._dense: tuple[str, nn.Module, Any] | None = None
        self._pruned: tuple[str, nn.Module] | None = None
        self._recovered: tuple[str, nn.Module] | None = None
        self._tokens: tuple[str, Tensor] | None = None

    def model(self, spec: ModelSpec) -> tuple[nn.Module, Any]:
        """The dense model and its tokenizer, loaded again where its files have changed."""
        key = digest([asdict(spec), spec.identity()])
        if self._dense is None or self._dense[0] != key:
            # free the old ones before loading the new
            self._dense = self._pruned = self._recovered = None
            with self.progress.within(0.0, 0.2) as progress:
                model, tokenizer = load_model(
                    spec.name,
                    device=spec.device,
                    dtype=spec.dtype,
                    store=self.store,
                    progress=progress,
                )
            key = digest([asdict(spec), spec.identity()])  # a hub model's is known only now
            self._dense = (key, model, tokenizer)
        return self._dense[1], self._dense[2]

    def calibration(self, model: ModelSpec, spec: CalibrationSpec) -> CalibrationSet:
        """The token ids to calibrate ``model`` on."""
        _, tokenizer = self.model(model)
        self.progress(0.2, f"Tokenising {spec.source}")
        return load_calibration(tokenizer=tokenizer, **asdict(spec))

    def statistics(self, model: ModelSpec, calibration: CalibrationSpec) -> Statistics:
        """The statistics of one forward pass; every activation criterion reads the same."""

        def compute() -> tuple[dict, dict]:
            tokens = self.calibration(model, calibration)
            network, _ = self.model(model)
            with self.progress.within(0.25, 0.9) as progress:
                found = collect_statistics(
                    network, tokens, batch_size=_batch(calibration), progress=progress
                )
            return found.to_tensors(), {"fingerprint": found.fingerprint, "split": tokens.split}

        tensors, data = self.store.tensors("statistics", _pass(model, calibration), compute)
        return Statistics.from_tensors(tensors, data["fingerprint"])

    def second_moments(self, model: ModelSpec, calibration: CalibrationSpec) -> SecondMoments:
        """What least squares refits from: one more forward pass, and much memory."""
        self._ensure_content(model)

        def build(folder: Path) -> None:
            tokens = self.calibration(model, calibration)
            network, _ = self.model(model)
            need = second_moment_bytes(Adapter(network).shape)
            check_free(network, need)
            self.progress(0.25, f"Second moments: {need / 2**20:,.0f} MiB")
            with self.progress.within(0.25, 0.9) as progress:
                tensors = collect_second_moments(
                    network, tokens, batch_size=_batch(calibration), progress=progress
                )
            save_file(tensors, folder / "moments.safetensors", {"format": tokens.fingerprint})

        folder = self.store.folder("second-moments", _pass(model, calibration), build)
        return SecondMoments.from_file(folder / "moments.safetensors")

    def scores(self, spec: ScoreSpec, plan: PlanSpec | None = None) -> Scores:
        """The scores of every head and channel; those of a ``plan`` with pruned propagation
        depend on what it cuts."""
        find_criterion(spec.criterion)
        self._ensure_content(spec.model)

        def compute() -> tuple[dict, dict]:
            found = self._compute_scores(spec, plan)
            return found.to_tensors(), found.to_dict()

        tensors, data = self.store.tensors("scores", score_identity(spec, plan), compute)
        return Scores.from_stored(tensors, data)

    def _ensure_content(self, spec: ModelSpec) -> None:
        """Fetch a hub model that is not here yet: results are kept by its content."""
        if spec.identity()["content"] is None:
            self.model(spec)

    def has_scores(self, spec: ScoreSpec, plan: PlanSpec | None = None) -> bool:
        """Whether `scores` would read the run store."""
        return self.store.find("scores", score_identity(spec, plan)) is not None

    def _compute_scores(self, spec: ScoreSpec, plan: PlanSpec | None) -> Scores:
        criterion = find_criterion(spec.criterion)
        options = criterion.resolve(dict(spec.options))
        model, _ = self.model(spec.model)
        if is_propagated(plan):
            tokens = self.calibration(spec.model, spec.calibration)
            settings = {"choice": plan.choice, "batch_size": _batch(spec.calibration)}
            with self.progress.within(0.25, 1.0) as progress:
                return score_pruned(
                    model, tokens, spec.criterion, progress=progress, **settings, **options
                )
        statistics, tokens, start = None, None, 0.25
        if criterion.needs == "activations":
            statistics, start = self.statistics(spec.model, spec.calibration), 0.9
        elif criterion.calibrated:
            tokens = self.calibration(spec.model, spec.calibration)
            self._state_memory(criterion, model, tokens.seq_len, options)
        journal = StoredJournal(self.store, search_identity(spec))
        with self.progress.within(start, 1.0) as progress:
            return score(
                model,
                statistics,
                spec.criterion,
                calibration=tokens,
                journal=journal,
                progress=progress,
                **options,
            )

    def _state_memory(self, criterion: Criterion, model: nn.Module, seq_len: int, options) -> None:
        """Say what a criterion takes beside the model before it starts; refuse what cannot be."""
        if criterion.memory is None:
            return
        need = criterion.memory(Adapter(model).shape, seq_len, **options)
        check_free(model, need)
        self.progress(0.25, f"{criterion.title} takes about {need / 2**20:,.0f} MiB more")

    def plan(self, spec: ScoreSpec, plan: PlanSpec) -> PruningPlan:
        """The plan of a spec. An impossible one is refused before anything is calibrated.

        One with a source is read, from its file or from the run store.
        """
        if plan.source:
            stored = self.stored_plan(plan.source)
            check_fits(Adapter(self.model(spec.model)[0]), stored)
            return stored
        if not self.has_scores(spec, plan):
            check_plan(Adapter(self.model(spec.model)[0]).shape, spec, plan)
        return describe(make_plan(self.scores(spec, plan), **plan.choice), spec, plan)

    def keep_plan(self, plan: PruningPlan) -> str:
        """Store a plan; the name that `stored_plan` finds it by."""
        text = plan.to_json()
        self.store.json("plans", {"plan": text}, lambda: {"plan": text})
        return digest({"plan": text})

    def stored_plan(self, source: str) -> PruningPlan:
        """The plan that `keep_plan` gave the name ``source``, or the one in that file or export."""
        stored = self.store.root / "plans" / source / "data.json"
        is_name = re.fullmatch("[0-9a-f]{16}", source)
        if is_name and not stored.is_file() and not Path(source).exists():
            raise InputError(f"The plan {source} is not in the run store any more; make it again.")
        if is_name and stored.is_file():
            try:
                return PruningPlan.from_json(json.loads(stored.read_text())["plan"])
            except (OSError, ValueError, KeyError, TypeError):
                raise InputError(f"The stored plan {source} is damaged; make it again.") from None
        return load_plan(source)

    def pruned(self, spec: ModelSpec, plan: PruningPlan) -> nn.Module:
        """The model with ``plan`` applied, and compensated as the plan's spec says."""
        key = digest([asdict(spec), spec.identity(), plan.to_json()])
        if self._pruned is None or self._pruned[0] != key:
            self._pruned = None
            model, _ = self.model(spec)
            pruned = apply_plan(model, plan)
            kind = plan.spec.get("compensation", "none")
            if kind != "none" and plan.realised:
                compensate(pruned, model, plan, kind, **self._sources(spec, plan, kind))
            self._pruned = (key, pruned)
        return self._pruned[1]

    def _sources(self, spec: ModelSpec, plan: PruningPlan, kind: str) -> dict[str, Any]:
        """What the compensation ``kind`` is computed from, on the plan's calibration set."""
        if kind not in ("bias", "least-squares"):
            return {}  # `compensate` says what there is
        calibration = compensated_on(plan)
        if kind == "bias":
            return {"statistics": self.statistics(spec, calibration)}
        return {"moments": self.second_moments(spec, calibration)}


def _batch(calibration: CalibrationSpec) -> int:
    """Samples in a forward pass: about 4096 tokens."""
    return max(1, 4096 // calibration.seq_len)


def _pass(model: ModelSpec, calibration: CalibrationSpec) -> dict:
    return {"model": model.identity(), "calibration": calibration.identity()}
