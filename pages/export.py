"""Writing the pruned model to a folder, or to a file."""

import re

import streamlit as st

from bipcore.export.export import check_removes
from bipcore.export.formats import choose_format
from bipcore.export.runtimes import runtimes
from bipcore.models.loading import load_config
from bipcore.store.kinds import digest
from bipcore.views.runtimes import runtimes_frame
from ui.estimates import job_of, show_line
from ui.exports import (
    choose_export_format,
    choose_types,
    export_text,
    measured_names,
    show_export,
)
from ui.page import begin
from ui.recoveries import choose_recovery
from ui.results import error_box, need_scores
from ui.summary import plan_metrics
from ui.words import plain

settings = begin(
    "Export",
    "Writes the pruned model as safetensors, or as a GGUF file, with its tokenizer, plan and model "
    "card. It is read back and compared before it counts as done.",
)
scores, plan = need_scores(settings)
plan_metrics(plan)
recovery = choose_recovery(settings, plan, optional=True)
tuned = recovery.spec if recovery else None
if recovery:
    st.caption("Its adapter is merged into the weights; a folder keeps it beside them, too.")

left, right = st.columns(2)
with left:
    wanted = choose_export_format()
with right:
    types = choose_types(wanted)
with error_box():
    check_removes(plan, recovered=recovery is not None)
    kind = types.get("quantize", "auto")
    config = load_config(settings.model)
    written_as, reason = choose_format(plan, config, name=wanted, kind=kind)
reason = reason or "It is asked for in this form."
(st.success if written_as.tier == 1 else st.info)(written_as.notice.format(reason=plain(reason)))

short = re.sub(r"[^\w.-]+", "-", settings.model.rstrip("/").split("/")[-1])
cut = settings.source or f"{settings.criterion}-{settings.sparsity * 100:.0f}"
cut += "-recovered" if recovery else ""
with st.form("export-form"):
    folder = st.text_input(
        f"{'File' if written_as.suffix else 'Folder'}, on the machine that runs this app",
        f"exports/{short}-{cut}{written_as.suffix}",
        key=f"folder-{short}-{cut}{written_as.suffix}",
    )
    measure = st.checkbox(
        f"Measure the {measured_names()} before and after, for the model card (builtin text)",
        True,
        key="measure",
    )
    fits = show_line(job_of(settings, "prune", **types))
    look = {"type": "primary", "disabled": not fits}
    pressed = st.form_submit_button("Export", key="export", **look)

with st.expander("Which programs take this plan"):
    st.dataframe(runtimes_frame(runtimes(plan, config)), hide_index=True)

made = [plan.to_json(), settings.model_spec.identity(), *([recovery.name] if recovery else [])]
key = "export-" + digest([*made, folder, measure, wanted, types])
text = export_text(plan) if measure else None
how = {"format": wanted, "types": types}
show_export(key, settings, plan, folder, text, tuned, **how, start=pressed)
