"""The original, the pruned and the recovered model, continuing a prompt side by side."""

import streamlit as st

from bipcore.store.kinds import digest
from ui.page import begin
from ui.recoveries import choose_recovery
from ui.results import error_box, need_scores
from ui.streams import generation_job, prompt_form, show_streams

settings = begin(
    "Generate",
    "The models continue the same prompt, taking turns token by token on one device, so each "
    "one's speed is its own.",
)
scores, plan = need_scores(settings)
recovery = choose_recovery(settings, plan, optional=True)
tuned = recovery.spec if recovery else None

prompt, sampling, pressed = prompt_form()
with error_box():
    made = [plan.to_json(), settings.model_spec.identity(), recovery.name if recovery else None]
    key = "generate-" + digest([*made, prompt, sampling])
    asked = prompt, sampling, tuned
    job = generation_job(key, settings.model_spec, plan, *asked, pressed=pressed)
if job is None:
    st.info("Press Generate: the models load, and write by turns.")
    st.stop()
show_streams(job, plan, settings.model, tuned)
