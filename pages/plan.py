"""What if: the plan, changed by hand, and what that costs and saves at once."""

import streamlit as st

from ui.page import begin
from ui.plan_controls import (
    block_controls,
    choose_block,
    history_controls,
    measure,
    plan_files,
    show_bound,
    show_map,
)
from ui.plan_editor import current_editor, show_problem
from ui.results import need_scores
from ui.summary import plan_metrics

settings = begin(
    "Plan",
    "Change by hand what the sidebar's plan removes. Everything can be undone; another model, "
    "criterion or plan setting starts over.",
)
scores, plan = need_scores(settings)
editor = current_editor(settings, plan)
show_problem()
plan_metrics(editor.plan)

left, right = st.columns([3, 2])
with right:
    block = choose_block(editor.plan)
    block_controls(editor, scores, block)
    history_controls(editor)
with left:
    show_map(editor, scores, block)
plan_files(settings, editor)

bound, perplexity = st.columns([3, 2])
with bound:
    st.subheader("Predicted error")
    place = st.container()
    st.caption(
        "LLM-BIP's prediction of the mean absolute change of every block's output, in the units "
        "of the hidden states, from the calibration text's activations; no model is run. For FFN "
        "channels it is an upper bound of the error that the block itself makes. With heads it is "
        "only an estimate, and mostly far too high: it takes the FFN behind them as linear, "
        "without gate and norm. Compare it from plan to plan. A compensation is not counted."
    )
with perplexity:
    st.subheader("Measured")
    measured = st.container()
with place:
    show_bound(settings, editor)
with measured:
    measure(settings, editor)
