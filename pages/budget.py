"""A budget in place of a sparsity: the plan that meets it with the least loss, and a search."""

import streamlit as st

from ui.budgets import (
    choose_target,
    need_planner,
    planned,
    search_controls,
    show_block,
    show_tradeoff,
    use_button,
)
from ui.page import begin
from ui.summary import plan_metrics

settings = begin(
    "Budget",
    "Say what the pruned model may cost; the widths with the least predicted loss follow. The "
    "sidebar's model, calibration and plan options count here, its criterion and sparsity do not.",
)
planner = need_planner(settings)
target = choose_target(planner.curves.shape)
plan = planned(planner, target)
plan_metrics(plan)
use_button(settings, plan, "use-budget", "Use this plan")

left, right = st.columns(2)
with left:
    show_tradeoff(planner, target, plan)
with right:
    show_block(planner, plan)
st.caption(
    "The predicted loss is that of the next token in nats, to second order: from the moments of "
    "the calibration text and the curvature of the loss, added up over the sublayers. It is good "
    "for small cuts and too low for large ones, where a search by trials does better."
)
st.subheader("Search on from this plan")
search_controls(settings, planner, plan, target)
