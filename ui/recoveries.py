"""Stored recoveries: choosing among them, and what one did."""

import streamlit as st

from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.recoveries import Recovery
from bipcore.pruning.plan import PruningPlan
from bipcore.recovery.training import Step, steps_of
from bipcore.store.kinds import digest
from bipcore.views.recovery import history_frame, loss_chart, rate_chart

from .figures import show_chart
from .results import error_box
from .settings import Settings

_CHOSEN = "recovery-chosen"


def stored_recoveries(settings: Settings, plan: PruningPlan) -> list[Recovery]:
    """Those of the plan that is shown, the latest first."""
    with error_box():
        return Pipeline().recoveries(settings.model_spec, plan)[::-1]


def choose_recovery(settings: Settings, plan: PruningPlan, *, optional: bool) -> Recovery | None:
    """A choice among the stored recoveries of the plan, kept for the session; None where there
    are none, or where ``optional`` and none is wanted."""
    found = {one.name: one for one in stored_recoveries(settings, plan)}
    if not found:
        return None
    options = [*found, *([""] if optional else [])]
    before = st.session_state.get(_CHOSEN)
    chosen = st.selectbox(
        "Recovered model",
        options,
        index=options.index(before) if before in options else 0,
        key=f"{_CHOSEN}-{digest(options)}",
        format_func=lambda name: describe(found[name]) if name else "none",
        help="The fine-tuned versions of this plan, made on the page Recover.",
    )
    st.session_state[_CHOSEN] = chosen
    return found.get(chosen)


def choose_latest() -> None:
    """Forget the choice, so that the latest recovery is chosen next."""
    st.session_state.pop(_CHOSEN, None)


def describe(recovery: Recovery) -> str:
    """One line that tells a recovery from others."""
    spec, last = recovery.spec, recovery.history[-1].step
    steps = f"{last} of {steps_of(spec)} steps" if last < steps_of(spec) else f"{last} steps"
    return (
        f"{spec.source}, {spec.samples:,} × {spec.seq_len} tokens, rank {spec.rank}, learning rate "
        f"{spec.learning_rate:g}, {steps} ({recovery.name[:6]})"
    )


def show_curves(history: tuple[Step, ...], chosen: int | None = None) -> None:
    """Loss and learning rate against the step."""
    frame = history_frame(history)
    left, right = st.columns([3, 2])
    with left:
        show_chart(loss_chart(frame, chosen), frame, "recovery-loss")
    with right:
        show_chart(rate_chart(frame), frame, "recovery-learning-rate")


def show_recovery(recovery: Recovery) -> None:
    """What a stored recovery did, in figures and curves."""
    looks = [step.validation for step in recovery.history if step.validation is not None]
    columns = st.columns(4)
    if looks:
        chosen = min(looks) if recovery.spec.patience else looks[-1]
        columns[0].metric(
            "Held-out loss, nats a token",
            f"{chosen:.3f}",
            f"{chosen - looks[0]:.3f}",
            delta_color="inverse",
            help="Of samples of the training text that were not trained on; the change is from "
            "the pruned model.",
        )
    columns[1].metric("Tokens trained on", f"{recovery.tokens:,}")
    columns[2].metric("Training took", f"{recovery.seconds:,.0f} s")
    columns[3].metric("Step kept", f"{recovery.chosen} of {recovery.history[-1].step}")
    show_curves(recovery.history, recovery.chosen)
