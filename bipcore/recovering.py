"""The three states of a model: dense, pruned, and recovered by fine-tuning."""

from torch import nn

from .plan import PruningPlan
from .preparation import Preparation
from .runs import digest
from .specs import ModelSpec, RecoverySpec


class Recovering(Preparation):
    """Fine-tunes pruned models, and hands out a model in whichever state is asked for."""

    def variant(
        self,
        spec: ModelSpec,
        plan: PruningPlan | None = None,
        recovery: RecoverySpec | None = None,
    ) -> nn.Module:
        """The dense model; with ``plan`` the pruned one, and with ``recovery`` that, recovered."""
        if plan is None:
            return self.model(spec)[0]
        return self.pruned(spec, plan)

    def variant_identity(
        self,
        spec: ModelSpec,
        plan: PruningPlan | None = None,
        recovery: RecoverySpec | None = None,
    ) -> dict:
        """What a measurement of `variant` is a function of."""
        self._ensure_content(spec)
        identity = {
            "model": spec.identity(),
            "plan": None if plan is None else digest(plan.to_json()),
        }
        return identity | ({"recovery": recovery.identity()} if recovery else {})
