"""Comparing what two models expect of a text, and showing where they part."""

from dataclasses import dataclass

import streamlit as st

from bipcore.errors import InputError
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.recoveries import Recovery
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import EvaluationSpec
from bipcore.store.kinds import digest
from bipcore.views.differences import FULL, coloured_text, likeliest_ids, worst_frame

from .jobs import DONE, FAILED, Job, worker
from .results import error_box, show_progress
from .settings import Settings
from .words import plain

_LIMIT = EvaluationSpec(max_tokens=2048)
_WORST = 20


@dataclass(frozen=True)
class Changes:
    """What a comparison found, ready to be shown."""

    html: str
    rows: list[dict]
    tokens: int
    kl: float
    agreement: float


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
    with error_box():
        model = settings.model_spec
        made = [plan.to_json(), model.identity(), recovery.name if recovery else None, text]

    def work(pipeline: Pipeline, job: Job) -> Changes:
        return _changes(pipeline, model, plan, tuned, text)

    key = "changes-" + digest(made)
    if pressed:
        worker().forget(key)
        return worker().submit(key, "Comparing the models on a text", work)
    return worker().find(key)


def _changes(pipeline: Pipeline, model, plan: PruningPlan, tuned, text: str) -> Changes:
    from bipcore.evaluation.differences import pieces, rows

    if not text.strip():
        raise InputError("There is no text; write or paste one.")
    found = pipeline.differences(model, _LIMIT, plan, tuned, own=text)
    _, tokenizer = pipeline.model(model)
    said = [tokenizer.decode([token]) for token in likeliest_ids(found)]
    html = coloured_text(found, pieces(found.tokens, tokenizer), _names(tuned is not None), said)
    means = float(found.kl.double().mean()), float(found.agrees.double().mean())
    return Changes(html, list(rows(found, tokenizer, _WORST)), len(found.tokens), *means)


def _names(recovered: bool) -> tuple[str, str]:
    return "Original", "Recovered" if recovered else "Pruned"


def show_changes(job: Job | None, *, recovered: bool) -> None:
    """The text with its tokens coloured, the figures above it, and the worst places below."""
    if job is None:
        st.info("Press Compare: each model reads the text once.")
        return
    if job.active:
        show_progress(job)
        return
    if job.state != DONE:
        (st.error if job.state == FAILED else st.info)(plain(job.error or "Stopped."))
        return
    found: Changes = job.result
    tokens, divergence, agreement = st.columns(3)
    tokens.metric("Tokens", f"{found.tokens:,}")
    about = "The mean of KL(original ‖ other) of the next token, over all tokens."
    divergence.metric("Mean divergence", f"{found.kl:.3f} nats", help=about)
    about = "The share of tokens after which both models find the same next token likeliest."
    agreement.metric("Same likeliest token", f"{found.agreement:.0%}", help=about)
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
