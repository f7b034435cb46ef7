"""One criterion under all calibration sets that it has been scored on."""

from dataclasses import replace

import streamlit as st

from bipcore.criteria import CRITERIA
from bipcore.pipeline.over_texts import scores_over_texts
from bipcore.pipeline.plans import plan_of
from bipcore.pruning.stability import removal_frame, stability
from bipcore.store.runs import RunStore
from bipcore.views.stability import removal_map, stability_chart

from .figures import show_chart
from .results import error_box
from .settings import Settings
from .words import plain


def show_stability(settings: Settings, criterion: str) -> None:
    """What of a criterion's order and plan is the calibration set's; nothing is computed for it."""
    st.subheader("The same criterion under other calibration sets")
    title = CRITERIA[criterion].title
    if not CRITERIA[criterion].calibrated:
        st.caption(f"{title} reads no calibration text.")
        return
    own = replace(settings, source="", criterion=criterion, propagation="dense")
    with error_box():
        scored = scores_over_texts(RunStore(), own.score_spec)
    if len(scored) < 2:
        st.info(
            f"It takes scores of two calibration sets by {title}, and {len(scored)} are stored. "
            "Load another text, seed or number of samples in the sidebar, and come back."
        )
        return
    with error_box():
        plans = {n: (s, plan_of(s, own.score_spec, own.plan_spec)) for n, s in scored.items()}
        frame = stability(plans)
    st.caption(
        f"{title}, {len(scored)} sets: " + plain("; ".join(scored)) + ". Rank correlation: "
        "Spearman's, of the scores within a block, over all pairs of sets. What goes under some "
        "sets and not under others is what another text would change."
    )
    left, right = st.columns(2)
    with left:
        show_chart(stability_chart(frame, "channel"), frame, "stability-channels")
    with right:
        heads = removal_frame(plans, "head")
        if heads["share"].any():
            show_chart(removal_map(heads), heads, "stability-heads")
        else:
            st.caption("No head goes under any of them at this sparsity.")
            show_chart(stability_chart(frame, "head"), frame, "stability-heads")
