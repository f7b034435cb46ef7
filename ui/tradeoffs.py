"""Quality against cost: which group of points, against which cost, and the chart."""

from collections.abc import Sequence

import streamlit as st

from bipcore.studies.runs import Run
from bipcore.studies.tradeoffs import groups
from bipcore.views.tradeoffs import costs_of, tradeoff_chart, tradeoff_frame

from .figures import show_chart


def show_tradeoffs(runs: Sequence[Run]) -> None:
    """The points of one group against one cost, with the frontier; nothing where no two points may
    be compared."""
    found = {str(group): group for group in groups(runs) if costs_of(group)}
    if not found:
        return
    st.subheader("Quality against cost")
    left, right = st.columns([5, 2])
    group = found[
        left.selectbox(
            "Measured alike",
            list(found),
            key="tradeoffs-group",
            help="Evaluations and sweep points of one model, on one text, with the same window, "
            "tokens and metric: others cannot be compared.",
        )
    ]
    costs = costs_of(group)
    cost = right.selectbox("Cost", list(costs), format_func=costs.get, key="tradeoffs-cost")
    frame = tradeoff_frame(group, cost)
    show_chart(tradeoff_chart(group, cost), frame, "tradeoffs")
    better = "lower" if group.metric.lower_is_better else "higher"
    st.caption(
        f"{group.metric.title}: {better} is better. On the dotted line are the points that no "
        "other beats in both. Point at one for its settings. Latency and memory are those of the "
        "machine that measured them."
    )
