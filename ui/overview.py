"""The page Overview: what this is, what it found in the model, and where to go on."""

from functools import partial

import streamlit as st

from bipcore.criteria import Scores
from bipcore.views.scores import channel_distributions, scores_frame

from .figures import show_chart
from .first_look import EXPLANATION, TITLE
from .navigation import page_link
from .page import begin
from .results import need_scores
from .sample import show_sample
from .settings import Settings
from .summary import plan_metrics, widths
from .words import plain

_NEXT = (
    ("pages/scores.py", "Scores", "Which heads and channels go, block by block."),
    ("pages/generate.py", "Generate", "Prompt the original beside the pruned model."),
    ("pages/export.py", "Export", "A folder that `from_pretrained` loads."),
)


def show_overview() -> None:
    """The page, from its frame to the links at its end."""
    settings = begin(TITLE, EXPLANATION)
    scores, plan = need_scores(settings, partial(show_sample, settings))
    _say_model(settings, scores)
    plan_metrics(plan)
    figure = channel_distributions(scores, plan)
    show_chart(figure, lambda: scores_frame(scores, plan), "overview-channels")
    for column, (path, label, text) in zip(st.columns(3), _NEXT, strict=True):
        with column.container(border=True):
            page_link(path, f"**{label}**")
            st.caption(text)


def _say_model(settings: Settings, scores: Scores) -> None:
    shape = scores.shape
    heads, groups, channels = widths(shape.blocks)
    st.markdown(
        f"**{plain(settings.model)}** has {len(shape.blocks)} decoder blocks of {heads} query "
        f"heads in {groups} KV groups and {channels} feed-forward channels, and "
        f"{shape.parameters / 1e6:,.1f} M parameters. "
        + (
            "The edited plan:"
            if settings.source
            else f"Cutting {settings.sparsity:.0%} of its blocks:"
        )
    )
