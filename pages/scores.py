"""The scores, block by block, and what the plan removes."""

import pandas as pd
import streamlit as st

from bipcore.views.scores import (
    channel_distributions,
    channel_histogram,
    extreme_scores,
    head_distributions,
    head_map,
    scores_frame,
)
from ui.figures import download, show_chart
from ui.navigation import page_link
from ui.page import begin
from ui.results import need_scores
from ui.summary import plan_metrics

_KINDS = {"FFN channels": "channel", "Query heads": "head", "KV groups": "kv_group"}

settings = begin(
    "Scores",
    "How important each head and channel is by the chosen criterion, and what the chosen sparsity "
    "removes. Scores have no unit; compare them within a block.",
)
scores, plan = need_scores(settings)
plan_metrics(plan)


def frame(of: str, block: int | None = None) -> pd.DataFrame:
    """The scores behind a chart, of one kind, of all blocks or of one."""
    rows = scores_frame(scores, plan)
    chosen = rows["kind"] == of
    return rows[chosen if block is None else chosen & (rows["block"] == block)]


show_chart(channel_distributions(scores, plan), lambda: frame("channel"), "channel-scores")
left, right = st.columns(2)
with left:
    show_chart(head_distributions(scores, plan), lambda: frame("head"), "head-scores")
with right:
    show_chart(head_map(scores, plan), lambda: frame("head"), "head-map")

st.subheader("One block")
block = st.slider("Block", 0, len(scores.blocks) - 1, 0) if len(scores.blocks) > 1 else 0
show_chart(
    channel_histogram(scores, plan, block),
    lambda: frame("channel", block),
    f"channel-scores-block-{block}",
    key="histogram",
)
with st.container(horizontal=True):
    for kind, said in (("head", "its heads"), ("channel", "its channels")):
        view = {"kind": kind, "block": str(block), "number": "0"}
        page_link("pages/closeup.py", f"Close-up of {said}", ":material/zoom_in:", view)

st.subheader("Largest and smallest")
kind = st.segmented_control("Of", list(_KINDS), default="FFN channels", key="kind")
extremes = extreme_scores(scores, plan, _KINDS[kind or "FFN channels"])
columns = {
    "block": "Block",
    "index": "Index",
    "score": st.column_config.NumberColumn("Score", format="%.4g"),
    "kept": "Kept",
}
for column, title, rows in zip(
    st.columns(2),
    ("Largest, of all blocks", "Smallest, of all blocks"),
    extremes,
    strict=True,
):
    column.caption(title)
    column.dataframe(rows, hide_index=True, column_config=columns)

download(
    "Download all scores as CSV",
    f"scores-{settings.criterion}.csv",
    lambda: scores_frame(scores, plan).to_csv(index=False),
)
