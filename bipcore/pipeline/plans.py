"""From specs to scores, plans and pruned models."""

import warnings
from dataclasses import replace
from typing import Any

from torch import nn

from ..criteria import CRITERIA, Criterion, Scores, find_criterion, memory_of, score
from ..criteria.base import SCORES
from ..criteria.block_influence import block_influence
from ..criteria.curves import CURVES, Curves, CurveSettings, collect_curves
from ..criteria.moments import SecondMoments
from ..criteria.outliers import outlier_shares
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.batches import rows_for
from ..models.loading import empty_model, load_config
from ..models.memory import check_free
from ..models.shapes import ModelShape
from ..models.streaming import check_whole
from ..pruning.budget import keep_evenly, keep_within
from ..pruning.choosing import check_possible, outline, planned
from ..pruning.compensation import compensate, too_few_tokens
from ..pruning.meeting import meet
from ..pruning.plan import NOTHING, PLANS, BlockPlan, Kept, PruningPlan, load_plan
from ..pruning.propagation import score_pruned
from ..pruning.resolving import Resolved
from ..pruning.slicing import apply_plan, check_fits
from ..pruning.targets import Target
from ..specs import CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec
from ..store.kinds import digest, is_digest
from ..store.resume import StoredJournal
from .deploying import check_taken, fitted, takes_other_widths
from .kept import PRUNED
from .latency import latency_facts, timed_target
from .plan_names import source_of
from .provenance import (
    compensated_on,
    curves_identity,
    depth_of,
    describe,
    is_propagated,
    score_identity,
    search_identity,
)
from .workbench import Workbench


def plan_of(scores: Scores, spec: ScoreSpec, plan: PlanSpec) -> PruningPlan:
    """The plan of ``scores``, which are those of ``spec``, and where it comes from."""
    config = config_for(spec, plan)
    resolved = fitted(plan, find_criterion(spec.criterion), scores.shape, config)
    made = describe(planned(scores, resolved), spec, resolved, beginning=scores.beginning)
    check_taken(made, plan.deployable, config)
    return made


def config_for(spec: ScoreSpec, plan: PlanSpec) -> Any:
    """The configuration of the model of ``spec`` where ``plan`` is for a program, else None."""
    return load_config(spec.model.name) if plan.deployable else None


def plan_within(
    curves: Curves, spec: ScoreSpec, plan: PlanSpec, target: Target, *, evenly: bool = False
) -> PruningPlan:
    """The plan of the least predicted loss that costs at most ``target``, by the ``curves`` of
    ``spec``, and where it comes from; ``evenly``: of those with the same widths in all blocks that
    the program takes."""
    criterion = find_criterion(spec.criterion)
    config = config_for(spec, plan)
    resolved = fitted(plan, criterion, curves.shape, config)
    ways = keep_evenly(curves, resolved, target) if evenly else None
    refused = None
    for kept in ways or [keep_within(curves, resolved, target)]:
        made = _within(curves, kept, spec, resolved, target)
        try:
            check_taken(made, plan.deployable, config)
            return made
        except InputError as error:
            refused = refused or error
    raise refused


def _within(
    curves: Curves, kept: tuple[Kept, ...], spec: ScoreSpec, resolved: Resolved, target: Target
) -> PruningPlan:
    """The plan that leaves what is ``kept`` for a ``target``, and where it comes from."""
    criterion = find_criterion(spec.criterion)
    made = PruningPlan(curves.shape, tuple(BlockPlan(*of_block) for of_block in kept))
    facts = {"criterion": spec.criterion, "options": criterion.resolve(dict(spec.options))}
    facts |= resolved.choice | {"sparsity": made.realised, "allocation": "budget"}
    facts |= {"target": target.text}
    return describe(replace(made, spec=facts), spec, resolved)


def by_predicted_loss(spec: ScoreSpec) -> bool:
    """Whether a target is met by what the curves of the criterion predict of the loss."""
    criterion = find_criterion(spec.criterion)
    if criterion.curves is None:
        return False
    return criterion.curve_settings(criterion.resolve(dict(spec.options))).fisher


def _named(plan: PruningPlan) -> dict[str, str]:
    return {"plan": plan.to_json()}


def name_of_plan(plan: PruningPlan) -> str:
    """The name that `Plans.keep_plan` gives ``plan``, which need not be stored."""
    return digest(_named(plan), version=PLANS.version)


class Plans:
    """Scores models, plans what goes, and prunes them, on a workbench."""

    def __init__(self, bench: Workbench) -> None:
        self.bench = bench

    def scores(self, spec: ScoreSpec, plan: PlanSpec | None = None) -> Scores:
        """The scores of every head and channel; those of a ``plan`` with pruned propagation
        depend on what it cuts."""
        find_criterion(spec.criterion)
        self.bench.ensure_content(spec.model)
        compute = self._propagated if is_propagated(plan) else self._scored
        if depth_of(spec, plan) is not None:
            compute = self._with_depth
        identity = score_identity(spec, plan)
        return self.bench.store.get(SCORES, identity, lambda: compute(spec, plan))

    def _with_depth(self, spec: ScoreSpec, plan: PlanSpec) -> Scores:
        """The scores, with the number of each block that the allocation of ``plan`` asks for."""
        scores = self.scores(spec)
        model, _ = self.bench.model(spec.model)
        adapter = Adapter(model)
        if depth_of(spec, plan) == "outliers":
            statistics = self.bench.statistics(spec.model, spec.calibration)
            return replace(scores, depth=outlier_shares(adapter, statistics))
        tokens = self.bench.calibration(spec.model, spec.calibration)
        batch = {"batch_size": rows_for(model, spec.calibration.seq_len)}
        with self.bench.progress.within(0.9, 1.0) as progress:
            depth = block_influence(adapter, tokens, progress, **batch)
        return replace(scores, depth=tuple(depth))

    def has_scores(self, spec: ScoreSpec, plan: PlanSpec | None = None) -> bool:
        """Whether `scores` would read the run store."""
        return self.bench.store.find(SCORES, score_identity(spec, plan)) is not None

    def _propagated(self, spec: ScoreSpec, plan: PlanSpec) -> Scores:
        options = find_criterion(spec.criterion).resolve(dict(spec.options))
        model, _ = self.bench.model(spec.model)
        tokens = self.bench.calibration(spec.model, spec.calibration)
        rows = rows_for(model, spec.calibration.seq_len)
        shape, found = Adapter(model).shape, find_criterion(spec.criterion)
        fits = fitted(plan, found, shape, config_for(spec, plan)) if plan.deployable else plan
        settings = {"choice": fits.choice, "batch_size": rows}
        with self.bench.progress.within(0.25, 1.0) as progress:
            return score_pruned(
                model, tokens, spec.criterion, progress=progress, **settings, **options
            )

    def _scored(self, spec: ScoreSpec, plan: PlanSpec | None) -> Scores:
        criterion = find_criterion(spec.criterion)
        options = criterion.resolve(dict(spec.options))
        model, _ = self.bench.model(spec.model)
        statistics, tokens, curves, start = None, None, None, 0.25
        if criterion.needs == "activations":
            statistics, start = self.bench.statistics(spec.model, spec.calibration), 0.9
        elif criterion.calibrated:
            tokens = self.bench.calibration(spec.model, spec.calibration)
            self._state_memory(criterion, model, tokens.seq_len, options)
        if criterion.curves is not None:
            curves, start = self.curves(spec), 0.95
        given = {
            "calibration": tokens,
            "curves": curves,
            "journal": StoredJournal(self.bench.store, search_identity(spec)),
        }
        with self.bench.progress.within(start, 1.0) as progress:
            return score(model, statistics, spec.criterion, progress=progress, **given, **options)

    def curves(self, spec: ScoreSpec) -> Curves:
        """What each sublayer loses at every width, as the criterion of ``spec`` counts it: from
        the second moments that least squares reads, too. Raises InputError for a criterion that
        has no curves."""
        criterion = find_criterion(spec.criterion)
        if criterion.curves is None:
            have = ", ".join(name for name, one in CRITERIA.items() if one.curves is not None)
            raise InputError(f"The criterion {criterion.name!r} has no curves; {have} have.")
        how = criterion.curve_settings(criterion.resolve(dict(spec.options)))
        self.bench.ensure_content(spec.model)
        identity = curves_identity(spec, how)
        return self.bench.store.get(CURVES, identity, lambda: self._curves(spec, how))

    def _curves(self, spec: ScoreSpec, how: CurveSettings) -> Curves:
        model, _ = self.bench.model(spec.model)
        tokens = self.bench.calibration(spec.model, spec.calibration)
        moments = self.bench.second_moments(spec.model, spec.calibration)
        with self.bench.progress.within(0.9, 0.95) as progress:
            return collect_curves(Adapter(model), tokens, how, progress=progress, moments=moments)

    def _state_memory(self, criterion: Criterion, model: nn.Module, seq_len: int, options) -> None:
        """Say what a criterion takes beside the model before it starts; refuse what cannot be."""
        if criterion.needs == "gradients" or (criterion.curves is not None and not criterion.local):
            check_whole(model, "A criterion that takes gradients")
        need = memory_of(criterion, model, seq_len, **options)
        if not need:
            return
        check_free(model, need, "use shorter samples, or a criterion without gradients")
        message = f"{criterion.title} takes about {need / 2**20:,.0f} MiB more"
        self.bench.progress(0.25, message)

    def plan(self, spec: ScoreSpec, plan: PlanSpec) -> PruningPlan:
        """The plan of a spec. An impossible one is refused before anything is calibrated.

        One with a source is read, from its file or from the run store.
        """
        if plan.source:
            stored = self.stored_plan(plan.source)
            check_fits(Adapter(self.bench.model(spec.model)[0]), stored)
            check_taken(stored, plan.deployable, config_for(spec, plan))
            return stored
        scores = self.bench.store.stored(SCORES, score_identity(spec, plan))
        if scores is None:
            shape = Adapter(self.bench.model(spec.model)[0]).shape
            check_possible(shape, self._fitted(spec, plan, shape))
            scores = self.scores(spec, plan)
        chosen = plan_of(scores, spec, plan)
        if plan.sparsity and chosen.removes_nothing:
            warnings.warn(NOTHING, stacklevel=2)
        return chosen

    def budgeted(self, spec: ScoreSpec, plan: PlanSpec, target: Target) -> PruningPlan:
        """The plan that costs at most ``target``: by the curves of obs-fisher that with the least
        predicted loss, whatever the allocation, of the same widths in all blocks where the program
        that it is for asks for that; by another criterion that of the least sparsity.
        Scores and curves are made once, so that another target takes no pass. Of ``plan`` all but
        the sparsity counts. Raises InputError."""
        if plan.propagation != "dense":
            raise InputError("A plan for a target is made from the dense model's scores alone.")
        if target.kind == "latency":
            shape = self._shape(spec)
            unit = self._fitted(spec, plan, shape).unit
            target = timed_target(self.bench, spec.model, unit, target)
            target.limit(shape)  # refused before anything is scored
        free = self.takes_other_widths(spec, plan)
        if by_predicted_loss(spec) and (free or len(set(self._shape(spec).blocks)) == 1):
            made = plan_within(self.curves(spec), spec, plan, target, evenly=not free)
        else:
            scores = self.scores(spec, plan)
            self._fitted(spec, plan, scores.shape)  # says what is wrong, where no plan would do
            made = meet(lambda share: plan_of(scores, spec, replace(plan, sparsity=share)), target)
        facts = {**made.spec, "target": target.text}
        if target.kind == "latency":
            facts |= {"latency": latency_facts(self.bench, spec.model, made, target)}
        return replace(made, spec=facts)

    def outline(self, spec: ScoreSpec, plan: PlanSpec) -> PruningPlan | None:
        """A plan with the widths that `plan` will give, known before anything is scored or loaded;
        None where they depend on the scores. One with a source is that plan, None where it is of
        another model. Raises InputError where there can be none."""
        shape = Adapter(empty_model(load_config(spec.model.name, store=self.bench.store))).shape
        if plan.source:
            stored = self.stored_plan(plan.source)
            return stored if stored.shape.blocks == shape.blocks else None
        return outline(shape, self._fitted(spec, plan, shape))

    def _shape(self, spec: ScoreSpec) -> ModelShape:
        return Adapter(self.bench.model(spec.model)[0]).shape

    def _fitted(self, spec: ScoreSpec, plan: PlanSpec, shape: ModelShape) -> Resolved:
        return fitted(plan, find_criterion(spec.criterion), shape, config_for(spec, plan))

    def takes_other_widths(self, spec: ScoreSpec, plan: PlanSpec) -> bool:
        """Whether the blocks of a plan may differ: not where the program that ``plan`` is for has
        the same widths in all of them."""
        if not plan.deployable:
            return True
        config = config_for(spec, plan)
        return takes_other_widths(plan.deployable, Adapter(empty_model(config)).shape, config)

    def keep_plan(self, plan: PruningPlan) -> str:
        """Store a plan; the name that `stored_plan` finds it by."""
        self.bench.store.get(PLANS, _named(plan), lambda: plan)
        return name_of_plan(plan)

    def stored_plan(self, source: str) -> PruningPlan:
        """The plan that `keep_plan` gave the name ``source``, the one that a user called so, or the
        one in that file or export."""
        if (stored := self.bench.store.named(PLANS, source)) is not None:
            return stored
        if (kept := source_of(self.bench.store, source)) is not None:
            return self.stored_plan(kept)
        try:
            return load_plan(source)
        except InputError:
            if not is_digest(source):
                raise
            raise InputError(
                f"The plan {source} is not in the run store any more; make it again."
            ) from None

    def pruned(self, spec: ModelSpec, plan: PruningPlan) -> nn.Module:
        """The model with ``plan`` applied, and compensated as the plan's spec says."""

        def make(model: nn.Module) -> nn.Module:
            pruned = apply_plan(model, plan)
            kind = plan.spec.get("compensation", "none")
            if kind != "none" and plan.realised:
                sources = self.sources_of(spec, plan)
                self._warn_of_few_tokens(plan, **sources)
                compensate(pruned, model, plan, kind, **sources)
            return pruned

        made_from = [spec, spec.identity(), plan.to_json()]
        return self.bench.derived(PRUNED, spec, made_from, make)

    def sources_of(self, spec: ModelSpec, plan: PruningPlan) -> dict[str, Any]:
        """What the compensation of ``plan`` is computed from, on the plan's calibration set."""
        kind = plan.spec.get("compensation", "none")
        if kind not in ("bias", "least-squares") or not plan.realised:
            return {}  # `compensate` says what there is
        return self.sources(spec, compensated_on(plan), kind)

    def sources(
        self, spec: ModelSpec, calibration: CalibrationSpec, compensation: str
    ) -> dict[str, Any]:
        """What a compensation is computed from, by the names of its parameters."""
        if compensation == "bias":
            return {"statistics": self.bench.statistics(spec, calibration)}
        if compensation == "least-squares":
            return {"moments": self.bench.second_moments(spec, calibration)}
        return {}

    def _warn_of_few_tokens(
        self, plan: PruningPlan, *, moments: SecondMoments | None = None, **_: Any
    ) -> None:
        if moments is not None and (sentence := too_few_tokens(plan, moments.tokens)):
            warnings.warn(sentence, stacklevel=3)
