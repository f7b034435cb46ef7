"""Reconstruction errors for a page: the plans of several criteria, measured by one job."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from bipcore.evaluation.reconstruction import ReconstructionErrors, llm_bip_bound
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import EvaluationSpec
from bipcore.store.kinds import digest

from .results import error_box, need, need_scores, need_scores_of
from .settings import Settings
from .work import reconstruct

EDITED = "edited"
_Errors = dict[str, ReconstructionErrors]
_Bounds = dict[str, tuple[float, ...]]


def need_errors(
    settings: Settings, criteria: Sequence[str], text: EvaluationSpec
) -> tuple[_Errors, _Bounds]:
    """The errors of each criterion's plan, and of the plan edited by hand where one is in use,
    with the LLM-BIP bound of what each cuts. Windows are no longer than the model can read."""
    plans: dict[str, PruningPlan] = {}
    if settings.source:
        plans[EDITED] = need_scores(settings)[1]
    for name in criteria:
        plans[name] = need_scores(replace(settings, criterion=name, source=""))[1]
    bip = need_scores_of(replace(settings.score_spec, criterion="llm-bip"))

    window = min(text.window, bip.shape.max_positions or text.window)
    text = replace(text, window=window)
    work = partial(reconstruct, settings.model_spec, plans, text)
    with error_box():
        sources = [plan.to_json() for plan in plans.values()]
        measured = [settings.model_spec.identity(), list(plans), sources, text.identity()]
    title = f"Measuring {len(plans)} pruned models block by block"
    errors = need(f"reconstruction-{digest(measured)}", title, work)
    with error_box():
        return errors, {name: llm_bip_bound(bip, plan) for name, plan in plans.items()}
