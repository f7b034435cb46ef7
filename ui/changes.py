"""Comparing what two models expect of a text, and showing where they part."""

from functools import partial

import streamlit as st

from bipcore.pipeline.recoveries import Recovery
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import EvaluationSpec
from bipcore.store.kinds import digest
from bipcore.views.differences import (
    FULL,
    depth_chart,
    depth_frame,
    worst_frame,
)

from .address import here
from .engines import Work
from .figures import metric_row, show_chart
from .jobs import DONE, FAILED, Job, worker
from .results import error_box, show_progress
from .settings import Settings
from .words import plain
from .work import Changes, compare_by_depth, compare_on_text

_LIMIT = EvaluationSpec(max_tokens=2048)


def changes_job(
    settings: Settings,
    plan: PruningPlan,
    recovery: Recovery | None,
    text: str,
    *,
    pressed: bool,
) -> Job | None:
    """The job that compares the models on ``text``: started when the button is ``pressed``."""
    tuned = recovery.spec if recovery else None
    key = _key("changes", settings, plan, recovery, text)
    work = partial(compare_on_text, settings.model_spec, _LIMIT, plan, tuned, text)
    return _job(key, "Comparing the models on a text", work, pressed=pressed)


def _key(
    what: str, settings: Settings, plan: PruningPlan, recovery: Recovery | None, text: str
) -> str:
    with error_box():
        name = recovery.name if recovery else None
        made = [plan.to_json(), settings.model_spec.identity(), name, text]
        return f"{what}-" + digest(made)


def _job(key: str, title: str, work: Work, *, pressed: bool) -> Job | None:
    """The job under ``key``, started anew where its button is ``pressed``."""
    if pressed:
        worker().forget(key)
        return worker().submit(key, title, work, here())
    return worker().find(key)


def _names(recovered: bool) -> tuple[str, str]:
    return "Original", "Recovered" if recovered else "Pruned"


def show_changes(job: Job | None, *, recovered: bool) -> None:
    """The text with its tokens coloured, the figures above it, and the worst places below."""
    if job is None:
        st.info("Press Compare: each model reads the text once.")
        return
    if not _finished(job):
        return
    found: Changes = job.result
    metric = metric_row()
    metric("Tokens", f"{found.tokens:,}")
    about = "The mean of KL(original ‖ other) of the next token, over all tokens."
    metric("Mean divergence", f"{found.kl:.3f} nats", help=about)
    about = "The share of tokens after which both models find the same next token likeliest."
    metric("Same likeliest token", f"{found.agreement:.0%}", help=about)
    st.caption(
        f"The stronger a token is coloured, the further apart the models are on what comes after "
        f"it: white is none, full colour {FULL:g} nats and more. Point at a token for what either "
        "expects there."
    )
    if found.tokens == _LIMIT.max_tokens:
        st.caption(f"Only the first {found.tokens:,} tokens of the text are compared.")
    st.html(found.html)
    st.subheader("Where they are furthest apart")
    frame = worst_frame(found.rows, _names(recovered))
    st.dataframe(
        frame,
        hide_index=True,
        column_config={"Divergence, nats": st.column_config.NumberColumn(format="%.2f")},
        key="changes-worst",
    )


def show_depth(settings: Settings, plan: PruningPlan, recovery: Recovery | None, text: str) -> None:
    """Where in their depth the models part on the beginning of ``text``, when it is asked for."""
    st.subheader("Block by block")
    st.caption(
        "After every block: how far the hidden states point away from the original's (1 − cosine), "
        "and how far apart the two next tokens are that the final norm and head would make of them "
        "there, the logit lens. Of the first 256 tokens."
    )
    pressed = st.button("Compare block by block", key="changes-depth", disabled=not text.strip())
    key, tuned = _key("depth", settings, plan, recovery, text), recovery.spec if recovery else None
    work = partial(compare_by_depth, settings.model_spec, _LIMIT, plan, tuned, text)
    job = _job(key, "Comparing the models block by block", work, pressed=pressed)
    if job is None or not _finished(job):
        return
    frame = depth_frame(job.result)
    for column, place in zip(("distance", "divergence"), st.columns(2), strict=True):
        with place:
            show_chart(depth_chart(frame, column), frame, f"depth-{column}")


def _finished(job: Job) -> bool:
    """Whether there is a result to show; how it goes or ended otherwise is shown."""
    if job.active:
        show_progress(job)
    elif job.state != DONE:
        (st.error if job.state == FAILED else st.info)(plain(job.error or "Stopped."))
    return job.state == DONE
