"""What the Budget page shows and offers: curves, a target, the plan for it, a search from there."""

from dataclasses import dataclass, replace
from functools import partial

import streamlit as st

from bipcore.criteria import find_criterion
from bipcore.criteria.curves import CURVES, Curves
from bipcore.models.shapes import ModelShape
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.plans import name_of_plan, plan_within
from bipcore.pipeline.provenance import curves_identity
from bipcore.pipeline.searching import WidthSearch
from bipcore.pruning.budget import predicted_loss, tradeoff
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.resolving import Resolved, resolve
from bipcore.pruning.targets import BYTES, Target, read_target
from bipcore.specs import PlanSpec, ScoreSpec
from bipcore.store.kinds import digest
from bipcore.store.runs import RunStore
from bipcore.views.curves import (
    curves_frame,
    tradeoff_chart,
    tradeoff_frame,
    width_curves_chart,
)

from . import work
from .address import here
from .figures import metric_row, show_chart
from .jobs import DONE, FAILED, worker
from .results import error_box, need, show_progress
from .settings import Settings, write_settings
from .words import plain

_KINDS = {"params": "Parameters", "bytes": "Bytes of the weights", "macs": "Multiply-accumulates"}
_UNITS = {
    "params": (1e6, "million parameters"),
    "bytes": (1e6, "MB"),
    "macs": (1e9, "billion multiply-accumulates, for 512 tokens"),
}
_SHARES = tuple(percent / 100 for percent in range(98, 18, -4))
_CRITERION = "obs-fisher"


@dataclass(frozen=True, eq=False)
class Planner:
    """What plans are made from: the curves under ``key``, and the specs they are of."""

    key: str
    curves: Curves
    score: ScoreSpec
    settings: PlanSpec

    @property
    def resolved(self) -> Resolved:
        """The plan's settings for this model."""
        return resolve(self.settings, find_criterion(_CRITERION), self.curves.shape)


def need_planner(settings: Settings) -> Planner:
    """The curves of the model, stored, or by a job that a button starts; while there are none the
    page ends here."""
    with error_box():
        spec = replace(settings.score_spec, criterion=_CRITERION)
        criterion = find_criterion(_CRITERION)
        identity = curves_identity(spec, criterion.curve_settings(criterion.resolve({})))
        key, plan = digest(identity), _plan_spec(settings)
        curves = _stored(key, identity)
    if curves is None:
        _make_curves(f"curves-{key}", spec)
    planner = Planner(key, curves, spec, plan)
    with error_box():
        _ = planner.resolved
    return planner


def _plan_spec(settings: Settings) -> PlanSpec:
    """The sidebar's plan options, without what a budget does not take."""
    return replace(settings.plan_spec, source="", allocation="auto", propagation="dense")


def _make_curves(key: str, spec: ScoreSpec) -> None:
    """Offer to make them, and show how that goes; what is behind it never runs in this run."""
    if worker().find(key) is None:
        st.info(
            "A budget is planned from what each sublayer loses at every width. That takes a pass "
            "over the calibration text, and gradients of some of it; it is stored."
        )
        if not st.button("Make the curves", type="primary", key="make-curves"):
            st.stop()
    title = f"Curves of {spec.model.name}"
    need(key, title, partial(work.make_curves, spec))
    worker().forget(key)
    st.rerun()


def _stored(key: str, identity: dict) -> Curves | None:
    """Kept in memory once read; None where the store has none."""
    try:
        return _read(key, identity)
    except LookupError:
        return None


@st.cache_resource(max_entries=4, show_spinner=False)
def _read(key: str, _identity: dict) -> Curves:
    curves = RunStore().stored(CURVES, _identity)
    if curves is None:
        raise LookupError(key)
    return curves


def choose_target(shape: ModelShape) -> Target:
    """What is counted, and how much of the original's may stay."""
    kind_place, share_place = st.columns([2, 3])
    kind = kind_place.selectbox(
        "Budget of", tuple(_KINDS), key="budget-kind", format_func=_KINDS.__getitem__
    )
    said = ""
    if kind == "bytes":
        said = kind_place.selectbox("Written as", tuple(BYTES), key="budget-type")
    share = share_place.slider(
        "At most, of the original", 10, 99, 80, format="%d %%", key="budget-share"
    )
    target = read_target(f"{kind}={share}%{said and '@' + said}")
    size, unit = _UNITS[kind]
    limit, whole = target.limit(shape) / size, target.cost(shape) / size
    share_place.caption(f"{limit:,.1f} of the original's {whole:,.1f} {unit}")
    return target


def planned(planner: Planner, target: Target) -> PruningPlan:
    """The plan of the least predicted loss; where there is none, an error box ends the page."""
    with error_box():
        key = digest([planner.key, planner.settings.choice, target.text])
        return _planned(key, planner, target)


@st.cache_resource(max_entries=64, show_spinner=False)
def _planned(key: str, _planner: Planner, _target: Target) -> PruningPlan:
    return plan_within(_planner.curves, _planner.score, _planner.settings, _target)


def show_tradeoff(planner: Planner, target: Target, plan: PruningPlan) -> None:
    """The least predicted loss of every size, and this plan's."""
    key = digest([planner.key, planner.settings.choice, target.kind, target.dtype])
    whole, cost = target.cost(plan.shape), target.cost(plan.pruned_shape)
    frame = tradeoff_frame(_points(key, planner, target), whole)
    loss = predicted_loss(planner.curves, plan, planner.resolved.unit)
    figure = tradeoff_chart(frame, cost / whole, loss, f"{_KINDS[target.kind]} against loss")
    show_chart(figure, frame, "budget-tradeoff")


@st.cache_data(max_entries=16, show_spinner=False)
def _points(key: str, _planner: Planner, _target: Target) -> list[tuple[float, float]]:
    return tradeoff(_planner.curves, _planner.resolved, _target, _SHARES)


def show_block(planner: Planner, plan: PruningPlan) -> None:
    """What one block loses at every width, and what the plan keeps of it."""
    block = st.selectbox("Block", range(len(plan.blocks)), key="budget-block")
    found = planner.curves.blocks[block], plan.blocks[block], plan.shape.blocks[block]
    figure = width_curves_chart(*found, planner.resolved.unit)
    show_chart(figure, lambda: curves_frame(planner.curves), "budget-block-curves")


def use_button(settings: Settings, plan: PruningPlan, key: str, label: str) -> None:
    """Make the plan the one that all pages take."""

    def use() -> None:
        write_settings(replace(settings, source=Pipeline().keep_plan(plan)))

    used = settings.source == name_of_plan(plan)
    st.button(label, key=key, type="primary", on_click=use, disabled=used)
    if used:
        st.success("This plan is in use on all pages.")


def search_controls(
    settings: Settings, planner: Planner, plan: PruningPlan, target: Target
) -> None:
    """A search by trials from this plan: asked for, followed, and what it found."""
    steps = st.number_input("Trials", 1, 10_000, 150, step=50, key="budget-steps")
    search = WidthSearch(int(steps))
    key = "search-" + digest([planner.key, plan.to_json(), target.text, search.steps])
    if st.button("Search", key="budget-search"):
        worker().forget(key)
        given = planner.score, planner.settings, plan, search, target
        worker().submit(key, "Searching widths", partial(work.search, *given), here())
    job = worker().find(key)
    if job is None:
        st.caption(
            "Each trial moves widths from sublayers that need them less to others at the same "
            "cost, and measures the divergence from the original on 8 samples of the calibration "
            "text that are not calibrated on. Every step is stored."
        )
    elif job.active:
        show_progress(job)
    elif job.state == DONE:
        _show_found(settings, job.result)
    else:
        (st.error if job.state == FAILED else st.info)(plain(job.error or "Stopped."))


def _show_found(settings: Settings, found: PruningPlan) -> None:
    said = found.spec["search"]
    metric = metric_row()
    metric("Divergence of this plan", f"{said['divergence_before']:.3f} nats a token")
    metric(
        f"After {said['steps']:,} trials",
        f"{said['divergence']:.3f} nats a token",
        f"{said['divergence'] - said['divergence_before']:.3f}",
        delta_color="inverse",
    )
    use_button(settings, found, "use-searched", "Use the plan that was found")
