"""The paper's tables and figures beside what this machine has measured of them."""

import streamlit as st

from ui.page import begin
from ui.paper import choose_reproduction, paper_form, run_job
from ui.paper_tables import show_measured, show_published

settings = begin(
    "Paper",
    "The tables and figures of the LLM-BIP paper (arXiv 2412.06419), and beside them what this "
    "machine has measured so far. Nothing is measured unless you start it.",
)
name = choose_reproduction()
show_published(name)
measured = st.container()

st.subheader("Measure it")
spec, pressed = paper_form(settings, name)
run_job(settings, spec, start=pressed)
with measured:  # shown above the form, but read after the job was looked at
    show_measured(settings, name)
