"""From specs to results: the one orchestrator behind the command line and the pages.

Expensive results go through the run store; models are loaded when something has to be computed,
and kept. A `Pipeline` is used by one thread at a time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..data.calibration import CalibrationSet
from ..errors import InputError
from ..evaluation.metrics import cut_windows, load_test_tokens, perplexity
from ..evaluation.profiling import Profile, profile_model, profile_shape
from ..evaluation.reconstruction import ReconstructionErrors, reconstruction_errors
from ..export.card import licence_of
from ..export.export import Export, same_export, save_pruned
from ..models.adapters import Adapter
from ..models.generation import Generated, Sampling, stream
from ..models.loading import empty_model, load_config
from ..pruning.allocation import allocated_shape, resolve_unit
from ..pruning.plan import PruningPlan
from ..specs import EvaluationSpec, ModelSpec, PlanSpec, RecoverySpec, ScoreSpec
from ..store.files import check_destination
from ..store.runs import digest
from .provenance import base_name, check_plan, describe, score_identity
from .zero_shot import ZeroShotRuns

__all__ = ["Pipeline", "base_name", "describe", "score_identity"]


class Pipeline(ZeroShotRuns):
    """Computes results of specs, or reads them from the run store."""

    def evaluate(
        self,
        spec: ModelSpec,
        evaluation: EvaluationSpec,
        plan: PruningPlan | None = None,
        recovery: RecoverySpec | None = None,
    ) -> dict:
        """Perplexity of the dense model, with ``plan`` of the pruned one, and with ``recovery``
        of that, recovered: a dictionary with ``perplexity``, ``text``, ``window``, ``tokens``."""

        def compute() -> dict:
            _, tokenizer = self.model(spec)
            tokens = load_test_tokens(evaluation.text, tokenizer, max_tokens=evaluation.max_tokens)
            start = 0.2 if plan is None else 0.5
            with self.progress.within(0.2, start):
                model = self.variant(spec, plan, recovery)
            with self.progress.within(start, 1.0) as progress:
                value = perplexity(model, tokens, window=evaluation.window, progress=progress)
            return {"perplexity": value, **asdict(evaluation), "tokens": len(tokens)}

        identity = self.variant_identity(spec, plan, recovery)
        identity |= {"evaluation": evaluation.identity()}
        return self.store.json("evaluations", identity, compute)

    def reconstruction(
        self, spec: ModelSpec, plans: Mapping[str, PruningPlan], text: EvaluationSpec
    ) -> dict[str, ReconstructionErrors]:
        """The reconstruction errors of each plan's model, by its name, on windows of ``text``.

        Those that are not stored are measured in one pass, side by side.
        """
        self._ensure_content(spec)
        identities = {
            name: {
                "model": spec.identity(),
                "plan": digest(plan.to_json()),
                "evaluation": text.identity(),
            }
            for name, plan in plans.items()
        }
        missing = {
            name: plans[name]
            for name, one in identities.items()
            if self.store.find("reconstruction", one) is None
        }
        measured = self._reconstruct(spec, missing, text) if missing else {}
        errors = {}
        for name, one in identities.items():
            data = self.store.json("reconstruction", one, lambda n=name: asdict(measured[n]))
            errors[name] = ReconstructionErrors(**{k: tuple(v) for k, v in data.items()})
        return errors

    def _reconstruct(
        self, spec: ModelSpec, plans: Mapping[str, PruningPlan], text: EvaluationSpec
    ) -> dict[str, ReconstructionErrors]:
        dense, tokenizer = self.model(spec)
        tokens = load_test_tokens(text.text, tokenizer, max_tokens=text.max_tokens)
        windows = CalibrationSet.from_tokens(cut_windows(dense, tokens, text.window))
        models = {}
        for index, (name, plan) in enumerate(plans.items()):
            with self.progress.within(0.2, 0.5), self.progress.share(index, len(plans)):
                models[name] = self.pruned(spec, plan)
        batch = max(1, 2048 // text.window)
        with self.progress.within(0.5, 1.0) as progress:
            return reconstruction_errors(
                dense, models, windows, batch_size=batch, progress=progress
            )

    def profile(
        self, spec: ModelSpec, plan: PlanSpec | None = None, **settings: Any
    ) -> tuple[Profile, Profile | None]:
        """The cost of the dense model and of the pruned one, by `profile_model` (``settings``).

        Measured anew each time: it depends on what else the machine is doing. What goes is
        chosen at random, since the cost depends on the widths alone.
        """
        model, _ = self.model(spec)
        chosen = self._any_plan(spec, plan) if plan else None
        with self.progress.within(0.2, 0.6) as progress:
            dense = profile_model(model, progress=progress, **settings)
        if chosen is None:
            return dense, None
        pruned = self.pruned(spec, chosen)
        with self.progress.within(0.6, 1.0) as progress:
            return dense, profile_model(pruned, progress=progress, **settings)

    def profile_shapes(
        self, spec: ModelSpec, plan: PlanSpec | None = None, *, seq_len: int
    ) -> tuple[Profile, Profile | None]:
        """The same from the configuration alone: counts only, nothing is loaded or run."""
        shape = Adapter(empty_model(load_config(spec.name, store=self.store))).shape
        dense = profile_shape(shape, seq_len=seq_len)
        if plan is None:
            return dense, None
        if plan.source:
            stored = self.stored_plan(plan.source)
            if stored.shape != shape:
                raise InputError("The plan was made for a model of another shape.")
            return dense, profile_shape(stored.pruned_shape, seq_len=seq_len)
        check_plan(shape, ScoreSpec(spec, criterion="random"), plan)
        settings = plan.choice | {"unit": resolve_unit(plan.unit, shape)}
        del settings["floor"]
        return dense, profile_shape(allocated_shape(shape, **settings), seq_len=seq_len)

    def _any_plan(self, spec: ModelSpec, plan: PlanSpec) -> PruningPlan:
        """A plan that costs what ``plan`` does: scored at random, on the dense model, and nothing
        refitted, which changes no width."""
        score = ScoreSpec(spec, criterion="random")
        if not plan.source:
            check_plan(Adapter(self.model(spec)[0]).shape, score, plan)
        chosen = self.plan(score, replace(plan, propagation="dense"))
        if chosen.spec.get("compensation") != "least-squares":
            return chosen
        return replace(chosen, spec={**chosen.spec, "compensation": "none"})

    def generate(
        self,
        spec: ModelSpec,
        plan: PruningPlan | None,
        prompt: str,
        sampling: Sampling,
        recovery: RecoverySpec | None = None,
    ) -> Iterator[dict[str, Generated]]:
        """Continue ``prompt`` with the dense model, with ``plan`` the pruned one in turn, and with
        ``recovery`` that, recovered, too.

        Yields the state of all ("dense", "pruned", "recovered") after every round of one token
        each.
        """
        dense, tokenizer = self.model(spec)
        models = {"dense": dense}
        if plan is not None:
            models["pruned"] = self.pruned(spec, plan)
        if plan is not None and recovery is not None:
            models["recovered"] = self.recovered(spec, plan, recovery)
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
        recovery: RecoverySpec | None = None,
    ) -> Export:
        """Export the pruned model, or the recovered one with its adapter; what is already there,
        whole and the same, is left as it is.

        With ``evaluation`` the card says the perplexity before and after.
        """
        check_destination(folder)
        self._ensure_content(spec)
        measured = evaluation.identity() if evaluation else None
        made_from = [spec.identity(), plan.to_json(), measured]
        source = digest(made_from + ([recovery.identity()] if recovery else []))
        if done := same_export(folder, source):
            return done
        _, tokenizer = self.model(spec)
        figures = self._figures(spec, plan, evaluation, recovery) if evaluation else None
        with self.progress.within(0.5, 0.8):
            model = self.variant(spec, plan, recovery)
        with self.progress.within(0.8, 1.0) as progress:
            return save_pruned(
                model,
                tokenizer,
                folder,
                plan=plan,
                base_model=base_name(spec.name),
                licence=licence_of(spec.name, store=self.store),
                figures=figures,
                source=source,
                adapter=self.adapter(spec, plan, recovery) if recovery else None,
                progress=progress,
            )

    def _figures(
        self,
        spec: ModelSpec,
        plan: PruningPlan,
        evaluation: EvaluationSpec,
        recovery: RecoverySpec | None,
    ) -> dict:
        """The perplexity of the dense, the pruned and the recovered model, as a row of the card."""
        with self.progress.within(0.2, 0.4):
            found = [self.evaluate(spec, evaluation)]
        with self.progress.within(0.4, 0.6):
            found.append(self.evaluate(spec, evaluation, plan))
        if recovery:
            with self.progress.within(0.6, 0.8):
                found.append(self.evaluate(spec, evaluation, plan, recovery))
        label = (
            f"Perplexity, {evaluation.text} test text, first {found[0]['tokens']:,} tokens, "
            f"window {evaluation.window}"
        )
        return {label: tuple(f"{one['perplexity']:.2f}" for one in found)}
