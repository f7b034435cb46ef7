"""Training the pruned model to win back what it lost, and what that did."""

import streamlit as st

from ui.navigation import page_link
from ui.page import begin
from ui.recover import recovery_form, train
from ui.recoveries import choose_recovery, show_recovery
from ui.results import need_scores
from ui.state_perplexities import compare_states
from ui.summary import plan_metrics

settings = begin(
    "Recover",
    "Trains the pruned model towards the dense one, or with LoRA on a text as the paper does, and "
    "puts the result into weights of the same size. The dense model and the pruned one stay as "
    "they are.",
)
scores, plan = need_scores(settings)
plan_metrics(plan)

if not plan.realised:
    st.info("At a sparsity of 0 nothing was removed, so there is nothing to recover.")
    st.stop()

spec, pressed = recovery_form(settings)
busy = train(settings, plan, spec, start=pressed)

recovery = None if busy else choose_recovery(settings, plan, optional=False)
if recovery is not None:
    show_recovery(recovery)
elif not busy:
    st.info("This plan has not been recovered yet. Choose above how, and press Start.")

if not busy:
    st.subheader("What it won back")
    compare_states(settings, plan, recovery.spec if recovery else None)
    if recovery is not None:
        with st.container(horizontal=True):
            page_link("pages/generate.py", "Prompt all three", ":material/chat:")
            page_link("pages/export.py", "Export it", ":material/download:")
        st.caption(
            f"On the command line it is `--recovery {recovery.name}`, for evaluate, zero-shot and "
            "generate."
        )
