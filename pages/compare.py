"""Where criteria agree and where not: the order of their scores, and what they remove."""

import streamlit as st

from bipcore.pruning.comparison import over_all_blocks, overlap_matrix
from bipcore.views.plans import (
    UNIT_NAMES,
    overlap_chart,
    overlap_matrix_chart,
    rank_correlation_chart,
)
from ui.comparisons import choose_criteria, compared, need_scored, title_of
from ui.figures import show_chart
from ui.page import begin
from ui.plan_pairs import show_pair
from ui.stability import show_stability

settings = begin(
    "Compare",
    "Which heads and channels each criterion removes at the sidebar's sparsity and plan options, "
    "and where criteria disagree.",
)
if settings.source:
    st.info("The plan edited by hand is not compared; the criteria's own plans are.")
names = choose_criteria()
if len(names) < 2:
    st.info("Choose at least two criteria.")
    st.stop()
scored = need_scored(settings, names)
by_block = compared(settings, scored)
overall = over_all_blocks(by_block)

st.subheader("All blocks together")
for column, kind in zip(st.columns(2), ("head", "channel"), strict=True):
    with column:
        square = overlap_matrix(overall, kind)
        if square.isna().all(axis=None):
            st.info(f"None of these plans removes any {UNIT_NAMES[kind]}.")
        else:
            show_chart(overlap_matrix_chart(square, kind), overall, f"overlap-matrix-{kind}")
shown = overall[["first", "second", "kind", "share", "share_chance", "jaccard", "rank_correlation"]]
percent = {
    name: st.column_config.NumberColumn(title, format="percent")
    for name, title in (
        ("share", "In common"),
        ("share_chance", "By chance"),
        ("jaccard", "Jaccard"),
    )
}
st.dataframe(
    shown.assign(first=shown["first"].map(title_of), second=shown["second"].map(title_of)),
    hide_index=True,
    column_config=percent
    | {
        "first": "First",
        "second": "Second",
        "kind": "Of",
        "rank_correlation": st.column_config.NumberColumn("Rank correlation", format="%.3f"),
    },
)
st.caption(
    "In common: of the units that two plans remove, how many both do, as a share of what they "
    "remove on average; the diagonal is each plan with itself. By chance: what two plans would "
    "have in common that remove as many of every block at random. Jaccard: as a share of what "
    "either removes. Rank correlation: Spearman's, of the scores within a block, mean over the "
    "blocks. A dash means that neither removes any."
)

st.subheader("Block by block, against one criterion")
reference = st.selectbox("Against", names, key="compare-reference", format_func=title_of)
for column, kind in zip(st.columns(2), ("head", "channel"), strict=True):
    with column:
        figure = rank_correlation_chart(by_block, reference, kind)
        show_chart(figure, by_block, f"rank-correlation-{kind}")
        if not overlap_matrix(overall, kind).isna().all(axis=None):
            show_chart(overlap_chart(by_block, reference, kind), by_block, f"overlap-{kind}")

show_stability(settings, reference)
show_pair(settings, {name: plan for name, (_, plan) in scored.items()})
