"""Writing the pruned model to a folder."""

import re

import streamlit as st

from bipcore.export.forms import stock_problem
from bipcore.models.loading import load_config
from bipcore.specs import EvaluationSpec
from bipcore.store.kinds import digest
from ui.exports import show_export
from ui.page import begin
from ui.recoveries import choose_recovery
from ui.results import error_box, need_scores
from ui.summary import plan_metrics

settings = begin(
    "Export",
    "Writes the pruned model as safetensors with its tokenizer, plan and model card. The folder "
    "is read back and compared before it counts as done.",
)
scores, plan = need_scores(settings)
plan_metrics(plan)
recovery = choose_recovery(settings, plan, optional=True)
tuned = recovery.spec if recovery else None
if recovery:
    st.caption("Its adapter is merged into the weights, and kept in a folder of its own besides.")

with error_box():
    problem = stock_problem(plan, load_config(settings.model))
if problem:
    st.info(
        f"Tier 2, a folder with a modelling file. {problem} So a short Python file goes along, and "
        "`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` loads it."
    )
else:
    st.success(
        "Tier 1, a plain folder: stock `transformers` loads it with "
        "`AutoModelForCausalLM.from_pretrained(folder)`, and no code comes with it."
    )

short = re.sub(r"[^\w.-]+", "-", settings.model.rstrip("/").split("/")[-1])
cut = settings.source or f"{settings.criterion}-{settings.sparsity * 100:.0f}"
cut += "-recovered" if recovery else ""
with st.form("export-form"):
    folder = st.text_input(
        "Folder, on the machine that runs this app",
        f"exports/{short}-{cut}",
        key=f"folder-{short}-{cut}",
    )
    measure = st.checkbox(
        "Measure the perplexity before and after, for the model card (builtin text)",
        True,
        key="measure",
    )
    pressed = st.form_submit_button("Export", type="primary", key="export")

made = [plan.to_json(), settings.model_spec.identity(), *([recovery.name] if recovery else [])]
key = "export-" + digest([*made, folder, measure])
text = EvaluationSpec(window=min(EvaluationSpec.window, plan.shape.max_positions or 2**31))
measured = text if measure else None
show_export(key, settings, plan, folder, measured, tuned, start=pressed)
