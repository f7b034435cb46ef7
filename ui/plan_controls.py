"""What the Plan page shows and offers: the map, the controls of one block, what comes of it."""

from dataclasses import replace
from functools import partial

import streamlit as st

from bipcore.criteria import Scores
from bipcore.data.beginnings import said_of
from bipcore.evaluation.metrics import METRICS
from bipcore.evaluation.reconstruction import llm_bip_parts
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.plan_names import LONGEST, check_name, give_name
from bipcore.pruning import editing
from bipcore.pruning.plan import PruningPlan
from bipcore.store.kinds import digest
from bipcore.views.plans import Parts, bound_chart, bound_frame, plan_frame, plan_map

from .exports import export_text, measured_names
from .figures import download, show_chart
from .jobs import worker
from .plan_editor import Editor, change, clicked, read_plan, toggled, use, with_heads
from .results import error_box, need, need_scores_of
from .settings import Settings
from .words import items, plain
from .work import measure_both

_BLOCK = "plan-block"
_MEASURED = "plan-measured"
_BOUND = "plan-bound"


def show_map(editor: Editor, scores: Scores, block: int) -> None:
    """Blocks × heads; a click on a head changes it, and chooses its block."""
    key = f"plan-map-{editor.revision}"  # a new chart after each edit: no selection is left

    def click() -> None:
        if point := clicked(st.session_state.get(key)):
            st.session_state[_BLOCK] = point[0]
            change(lambda e: e.edited(toggled(e.plan, *point, scores)))

    heads = plan_frame(editor.plan, editor.base)
    options = {"on_select": click, "selection_mode": "points", "key": key}
    show_chart(plan_map(heads, block), heads, "plan-map", **options)


def choose_block(plan: PruningPlan) -> int:
    """The block that the controls are about; kept for the session."""
    blocks = range(len(plan.blocks))
    if st.session_state.get(_BLOCK) not in blocks:
        st.session_state[_BLOCK] = 0
    shown = st.session_state["plan-block-widget"] = st.session_state[_BLOCK]

    def choose() -> None:
        st.session_state[_BLOCK] = st.session_state["plan-block-widget"]

    st.selectbox("Block", blocks, key="plan-block-widget", on_change=choose)
    return shown


def block_controls(editor: Editor, scores: Scores, block: int) -> None:
    """Everything that can be changed in a block; each widget shows the plan as it is."""
    was, keep = editor.plan.shape.blocks[block], editor.plan.blocks[block]
    st.session_state["plan-heads"] = list(keep.heads)
    st.session_state["plan-channels"] = len(keep.channels)

    def heads() -> None:
        wanted = st.session_state["plan-heads"]
        change(lambda e: e.edited(with_heads(e.plan, block, wanted, scores)))

    def channels() -> None:
        count = st.session_state["plan-channels"]
        change(lambda e: e.edited(editing.keep_channel_count(e.plan, block, count, scores)))

    if was.heads:
        st.pills(
            "Query heads that stay",
            range(was.heads),
            selection_mode="multi",
            key="plan-heads",
            on_change=heads,
            help=_company(editor.plan, block),
        )
    if was.channels:
        st.slider(
            "FFN channels that stay, the highest-scored",
            0,
            was.channels,
            key="plan-channels",
            on_change=channels,
        )
    _block_buttons(editor, block)


def _company(plan: PruningPlan, block: int) -> str | None:
    """Which heads go together, where they do."""
    group = plan.shape.blocks[block].group
    if group == 1:
        return None
    if plan.spec.get("unit") == "kv-group":
        return f"The {group} query heads of a key/value head go and come back together."
    return (
        f"{group} query heads share a key/value head, and every key/value head that stays needs "
        "the same number of them: with a head the lowest-scored one of every other group goes, "
        "and the highest-scored one comes back."
    )


def _block_buttons(editor: Editor, block: int) -> None:
    edits = (
        ("Keep everything", "protect", lambda plan: editing.protect_block(plan, block)),
        ("Remove attention", "no-attention", lambda plan: editing.drop_attention(plan, block)),
        ("Remove FFN", "no-ffn", lambda plan: editing.drop_ffn(plan, block)),
        ("As before", "restore", lambda plan: editing.restore_block(plan, block, editor.base)),
    )
    with st.container(horizontal=True):
        for label, name, edit in edits:
            st.button(
                label,
                key=f"plan-{name}",
                on_click=lambda edit=edit: change(lambda e: e.edited(edit(e.plan))),
            )


def history_controls(editor: Editor) -> None:
    """What was changed, and taking it back."""
    changed = bool(editor.history)
    with st.container(horizontal=True):
        st.button(
            "Undo",
            key="plan-undo",
            icon=":material/undo:",
            disabled=not changed,
            on_click=lambda: change(Editor.undone),
        )
        st.button(
            "Undo all",
            key="plan-reset",
            icon=":material/restart_alt:",
            disabled=not changed,
            on_click=lambda: change(Editor.reset),
        )
    edits = editing.edits(editor.plan)
    count = f"{len(edits)} edit{'s' * (len(edits) > 1)}, the newest first"
    st.caption(count if edits else "Nothing was changed by hand.")
    if edits:
        with st.container(height=160 if len(edits) > 4 else "content", border=False):
            st.markdown(items(reversed(edits)))


def plan_files(settings: Settings, editor: Editor) -> None:
    """Using the plan, downloading it, and uploading another."""
    plan = editor.plan
    in_use = settings.source == editor.used != "" and plan is editor.in_use
    with st.container(horizontal=True):
        st.button(
            "Use this plan",
            type="primary",
            key="plan-use",
            disabled=in_use or not editor.history,
            on_click=lambda: use(settings),
            help="Overview, Scores, Reconstruction error, Generate and Export take exactly this "
            "plan then, until you go back to the sidebar's controls.",
        )
        download("Download plan.json", "plan.json", plan.to_json, key="plan-download")
    if in_use:
        st.success("This plan is in use on all pages.")
    elif settings.source and editor.history:
        st.info("The edits since are not in use yet.")
    _name(settings, editor)
    _upload()


def _name(settings: Settings, editor: Editor) -> None:
    """Keep the plan as it is under a name, by which Compare and `--plan` find it."""
    with st.form("plan-name-form", border=False):
        left, right = st.columns([3, 1], vertical_alignment="bottom")
        name = left.text_input("Name", key="plan-name", max_chars=LONGEST)
        pressed = right.form_submit_button("Keep under this name", key="plan-keep", width="stretch")
    if pressed:
        with error_box():
            said, pipeline = check_name(name), Pipeline()
            give_name(pipeline.store, pipeline.keep_plan(editor.plan), said)
        st.success(f"Kept as {plain(said)}: the page Compare offers it, and so does --plan.")


def _upload() -> None:
    def take() -> None:
        if (file := st.session_state["plan-upload"]) is not None:
            change(lambda e: e.edited(read_plan(file.getvalue(), e.plan)))

    st.file_uploader(
        "Upload a plan.json",
        key="plan-upload",
        on_change=take,
        help="A plan that was downloaded here, comes with an export, or was made by "
        "`python -m bipcore plan make`. It takes the place of the plan above, as one more edit.",
    )


def show_bound(settings: Settings, editor: Editor) -> None:
    """The predicted error of every block, before and after the edits."""
    bip = need_scores_of(replace(settings.score_spec, criterion="llm-bip"))
    with error_box():
        frame = bound_frame(_parts_before(bip, editor.base), llm_bip_parts(bip, editor.plan))
    sums = frame.sum()
    for column, label, now, before in zip(
        st.columns(2),
        ("Sum over the blocks, FFN channels", "Sum over the blocks, heads too"),
        (sums["ffn_after"], sums["after"]),
        (sums["ffn_before"], sums["before"]),
        strict=True,
    ):
        change = f"{now - before:,.4g}" if editor.history else None
        column.metric(label, f"{now:,.4g}", change, delta_color="inverse")
    show_chart(bound_chart(frame), frame, "plan-bound")


def _parts_before(bip: Scores, base: PruningPlan) -> Parts:
    """Those of the plan that the edits start from, computed once for all of them."""
    known = st.session_state.get(_BOUND)
    if known is None or known[0] is not bip or known[1] is not base:
        known = st.session_state[_BOUND] = (bip, base, llm_bip_parts(bip, base))
    return known[2]


def measure(settings: Settings, editor: Editor) -> None:
    """The figures of the dense and the edited model, by a job, for the plan it was asked for."""
    plan, model = editor.plan, settings.model_spec
    text = export_text(plan)
    names = measured_names()
    pressed = st.button(
        f"Measure the {names}", key="plan-measure", help="Of the builtin text, by both models."
    )
    if pressed:
        key = "measure-" + digest([plan.to_json(), model.identity()])
        worker().forget(key)
        st.session_state[_MEASURED] = (plan, model, key)
    measured = st.session_state.get(_MEASURED)
    if measured is None or measured[0] is not plan or measured[1] != model:
        return
    work = partial(measure_both, model, text, plan)
    dense, edited = need(measured[2], f"Measuring the {names} of both models", work)
    for name, metric in METRICS.items():
        columns, change = st.columns(2), edited[name] - dense[name]
        columns[0].metric(f"{metric.heading}, dense", metric.say(dense[name], grouped=True))
        columns[1].metric(
            f"{metric.heading}, this plan",
            metric.say(edited[name], grouped=True),
            metric.say(change, grouped=True),
            delta_color="inverse" if metric.lower_is_better else "normal",
        )
    st.caption(
        f"On the {text.text} text, first {dense['tokens']:,} tokens, window {text.window}, "
        f"{said_of(dense['beginning'])}. "
        f"Compensation: {plain(plan.spec.get('compensation', 'none'))}."
    )
