"""The original, the pruned and the recovered model, continuing a prompt side by side."""

import streamlit as st

from bipcore.models.generation import Sampling
from bipcore.store.kinds import digest
from ui.page import begin
from ui.recoveries import choose_recovery
from ui.results import error_box, need_scores
from ui.streams import generation_job, show_streams

_PROMPT = "Explain in two sentences why the sky is blue."

settings = begin(
    "Generate",
    "The models continue the same prompt, taking turns token by token on one device, so each "
    "one's speed is its own.",
)
scores, plan = need_scores(settings)
recovery = choose_recovery(settings, plan, optional=True)
tuned = recovery.spec if recovery else None

with st.form("prompt-form"):
    prompt = st.text_area("Prompt", _PROMPT, height=90, key="prompt")
    columns = st.columns(6)
    tokens = columns[0].number_input("New tokens", 1, 4096, 48, key="new-tokens")
    temperature = columns[1].number_input(
        "Temperature", 0.0, 5.0, 0.0, 0.1, key="temperature", help="0 takes the likeliest token."
    )
    top_k = columns[2].number_input("Top-k", 0, None, 0, key="top-k", help="0: all tokens.")
    top_p = columns[3].number_input("Top-p", 0.01, 1.0, 1.0, 0.05, key="top-p")
    seed = columns[4].number_input("Sampling seed", 0, None, 0, key="sampling-seed")
    chat = columns[5].checkbox("Chat template", True, key="chat")
    pressed = st.form_submit_button("Generate", type="primary", key="generate")

with error_box():
    sampling = Sampling(int(tokens), temperature, int(top_k), top_p, int(seed), chat)
    made = [plan.to_json(), settings.model_spec.identity(), recovery.name if recovery else None]
    key = "generate-" + digest([*made, prompt, sampling])
    job = generation_job(key, settings.model_spec, plan, prompt, sampling, tuned, again=pressed)
show_streams(job, plan, settings.model, tuned)
