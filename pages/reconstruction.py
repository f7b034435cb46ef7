"""How far each block of the pruned models is from the dense one: the paper's figure 3."""

import streamlit as st

from bipcore.criteria import CRITERIA
from bipcore.data.texts import NAMED
from bipcore.specs import EvaluationSpec
from bipcore.views.reconstruction import bound_against_error, error_by_block, reconstruction_frame
from ui.estimates import job_of, show_line
from ui.figures import show_chart
from ui.page import begin
from ui.reconstructions import need_errors, wait_for_press

settings = begin(
    "Reconstruction error",
    "The mean over tokens and hidden units of |f(X) − f̂(X̂)|, block by block, for each criterion "
    "at the sidebar's sparsity and plan options. Everything is measured on the same tokens, in "
    "one pass.",
)

default = dict.fromkeys((settings.criterion, "llm-bip", "wanda", "wanda-sp"))
with st.form("reconstruction-form", border=False):
    left, middle, right, end = st.columns([5, 2, 2, 2], vertical_alignment="bottom")
    criteria = left.multiselect(
        "Criteria",
        tuple(CRITERIA),
        default=st.session_state.get("reconstruction-criteria", list(default)),
        format_func=lambda name: CRITERIA[name].title,
        help="Those that need gradients or a search take longer to score.",
    )
    text = middle.selectbox("Text", NAMED, key="reconstruction-text")
    tokens = right.number_input("Tokens", 256, None, 2048, 256, key="reconstruction-tokens")
    pressed = end.form_submit_button("Measure", width="stretch")
if criteria != list(default):  # else the sidebar's criterion goes on being among them
    st.session_state["reconstruction-criteria"] = criteria
if settings.source:
    st.info("The plan edited by hand is measured as “edited”.", icon=":material/edit:")
if not criteria and not settings.source:
    st.info("Choose at least one criterion.")
    st.stop()

window = min(256, int(tokens))
measured = EvaluationSpec(text, window, int(tokens))
show_line(job_of(settings, "reconstruct", criteria=tuple(criteria), text=measured))
wait_for_press(settings, criteria, measured, pressed=pressed)
errors, bounds = need_errors(settings, criteria, measured)
frame = reconstruction_frame(errors, bounds)

relative = st.toggle("Relative to the size of the dense block's output", key="relative")
for column, kind in zip(st.columns(2), ("accumulated", "local"), strict=True):
    chosen = f"{kind}_relative" if relative else kind
    with column:
        show_chart(error_by_block(frame, chosen), frame, f"reconstruction-{chosen}")
st.caption(
    "Accumulated: the dense and the pruned model each run on their own hidden states, so errors "
    "add up from block to block, or cancel. Local: both blocks receive the dense hidden states, so "
    "each block answers for itself. In block 0 the two are the same."
)

st.subheader("How tight is the bound?")
st.markdown(
    "LLM-BIP ranks by an upper bound on what a removal changes in the block's output. Each point "
    "is a block: the bound of all that was cut from it against the local error measured. For "
    "feed-forward channels it is a true bound where the block adds `down_proj`'s output as it is. "
    "For heads it takes the feed-forward layer as linear, without gate and norm: there it is an "
    "estimate, and a loose one."
)
show_chart(bound_against_error(frame), frame, "bound")
loose = (frame["bound"] / frame["local"]).where(frame["local"] > 0)
medians = loose.groupby(frame["model"], sort=False).median().dropna()
if len(medians):
    st.caption(
        "Median of bound / error: "
        + ", ".join(f"{name} {value:,.3g}×" for name, value in medians.items())
        + ". With a compensation the error is that after it; the bound is that of the cut alone."
    )
