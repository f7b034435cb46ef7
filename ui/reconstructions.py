"""Reconstruction errors for a page: the plans of several criteria, measured by one job."""

from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import streamlit as st

from bipcore.evaluation.reconstruction import (
    RECONSTRUCTION,
    ReconstructionErrors,
    llm_bip_bound,
)
from bipcore.pipeline.provenance import reconstruction_identity
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import EvaluationSpec
from bipcore.store.kinds import digest
from bipcore.store.runs import RunStore

from .asking import ask_for, asked_for
from .results import error_box, need, need_scores, need_scores_of, stored_plan_of
from .settings import Settings
from .work import reconstruct

EDITED = "edited"
_Errors = dict[str, ReconstructionErrors]
_Bounds = dict[str, tuple[float, ...]]


def fitted(text: EvaluationSpec, positions: int | None) -> EvaluationSpec:
    """``text`` in windows that a model of so many positions can read."""
    return replace(text, window=min(text.window, positions or text.window))


def wait_for_press(
    settings: Settings, criteria: Sequence[str], text: EvaluationSpec, *, pressed: bool
) -> None:
    """Go on where the errors of these plans are stored or were asked for, as by the button that is
    ``pressed``; else say so, and end the page."""
    key = digest([asdict(settings), settings.model_spec.identity(), list(criteria), asdict(text)])
    if pressed:
        ask_for([key])
    if not asked_for([key]) and not _stored(settings, criteria, text):
        st.info("Press Measure. What is stored of it is not computed again.")
        st.stop()


def _stored(settings: Settings, criteria: Sequence[str], text: EvaluationSpec) -> bool:
    each = [replace(settings, criterion=name, source="") for name in criteria]
    store = RunStore()
    for one in [settings, *each] if settings.source else each:
        found = stored_plan_of(one)
        if found is None:
            return False
        read = fitted(text, found[0].shape.max_positions)
        identity = reconstruction_identity(settings.model_spec, found[1], read)
        if store.find(RECONSTRUCTION, identity) is None:
            return False
    return True


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
    text = fitted(text, bip.shape.max_positions)
    work = partial(reconstruct, settings.model_spec, plans, text)
    with error_box():
        sources = [plan.to_json() for plan in plans.values()]
        measured = [settings.model_spec.identity(), list(plans), sources, text.identity()]
    title = f"Measuring {len(plans)} pruned models block by block"
    errors = need(f"reconstruction-{digest(measured)}", title, work)
    with error_box():
        return errors, {name: llm_bip_bound(bip, plan) for name, plan in plans.items()}
