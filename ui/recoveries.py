"""Stored recoveries: choosing among them, and what one did."""

import streamlit as st

from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.recoveries import Recovery
from bipcore.pruning.plan import PruningPlan
from bipcore.recovery.schedule import steps_of
from bipcore.recovery.training import Step
from bipcore.store.kinds import digest
from bipcore.views.recovery import divergence_chart, history_frame, loss_chart, rate_chart

from .figures import metric_row, show_chart
from .results import error_box
from .settings import Settings

_CHOSEN = "recovery-chosen"
_LOOKS = {
    "validation_kl": "Held-out KL, nats",
    "validation": "Held-out loss, nats",
}


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


def choose(name: str) -> None:
    """Choose a recovery by its name, wherever one is chosen next."""
    st.session_state[_CHOSEN] = name


def choose_latest() -> None:
    """Forget the choice, so that the latest recovery is chosen next."""
    st.session_state.pop(_CHOSEN, None)


def describe(recovery: Recovery) -> str:
    """One line that tells a recovery from others."""
    spec, last = recovery.spec, recovery.history[-1].step
    steps = f"{last} of {steps_of(spec)} steps" if last < steps_of(spec) else f"{last} steps"
    return (
        f"{spec.objective}, {spec.train}{f' of rank {spec.rank}' if spec.train == 'lora' else ''}, "
        f"{spec.source}, {spec.samples:,} × {spec.seq_len} tokens, learning rate "
        f"{spec.learning_rate:g}, {steps} ({recovery.name[:6]})"
    )


def show_curves(history: tuple[Step, ...], chosen: int | None = None) -> None:
    """Divergence, loss and learning rate against the step."""
    frame = history_frame(history)
    if frame["validation_kl"].notna().any():
        show_chart(divergence_chart(frame, chosen), frame, "recovery-divergence")
    left, right = st.columns([3, 2])
    with left:
        show_chart(loss_chart(frame, chosen), frame, "recovery-loss")
    with right:
        show_chart(rate_chart(frame), frame, "recovery-learning-rate")


def show_recovery(recovery: Recovery) -> None:
    """What a stored recovery did, in figures and curves."""
    metric = metric_row()
    for name, title in _LOOKS.items():
        looks = {step.step: getattr(step, name) for step in recovery.history}
        first, chosen = looks[0], looks.get(recovery.chosen)
        if first is None or chosen is None:
            continue
        metric(
            title,
            f"{chosen:.3f}",
            f"{chosen - first:.3f}",
            delta_color="inverse",
            help="A token, on samples of the training text that were not trained on; the change "
            "is from the pruned model.",
        )
    metric("Tokens trained on", f"{recovery.tokens:,}")
    metric("Training took", f"{recovery.seconds:,.0f} s")
    metric("Step kept", f"{recovery.chosen} of {recovery.history[-1].step}")
    show_curves(recovery.history, recovery.chosen)
