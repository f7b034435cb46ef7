"""The start page: what this is, what it found in the model, and where to go on."""

from functools import partial

import streamlit as st

from bipcore.views.scores import channel_distributions, scores_frame
from ui.figures import show_chart
from ui.navigation import page_link
from ui.page import begin
from ui.results import need_scores
from ui.sample import show_sample
from ui.summary import plan_metrics, widths
from ui.words import plain

settings = begin(
    "What a language model can do without",
    "LLM-BIP scores every attention head and feed-forward channel from one forward pass; the "
    "least important are cut out, and you see what that did.",
)
scores, plan = need_scores(settings, partial(show_sample, settings))

shape = scores.shape
heads, groups, channels = widths(shape.blocks)
st.markdown(
    f"**{plain(settings.model)}** has {len(shape.blocks)} decoder blocks of {heads} query heads in "
    f"{groups} KV groups and {channels} feed-forward channels, and "
    f"{shape.parameters / 1e6:,.1f} M parameters. "
    + ("The edited plan:" if settings.source else f"Cutting {settings.sparsity:.0%} of its blocks:")
)
plan_metrics(plan)
show_chart(
    channel_distributions(scores, plan), lambda: scores_frame(scores, plan), "overview-channels"
)

for column, (path, label, text) in zip(
    st.columns(3),
    (
        ("pages/scores.py", "Scores", "Which heads and channels go, block by block."),
        ("pages/generate.py", "Generate", "Prompt the original beside the pruned model."),
        ("pages/export.py", "Export", "A folder that `from_pretrained` loads."),
    ),
    strict=True,
):
    with column.container(border=True):
        page_link(path, f"**{label}**")
        st.caption(text)
