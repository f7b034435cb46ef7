"""Showing continuations side by side while they grow."""

from functools import partial

import streamlit as st

from bipcore.models.generation import Generated, Sampling
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import ModelSpec, RecoverySpec

from .address import here
from .forms import Form
from .job_panel import see_panel
from .jobs import CANCELLED, DONE, FAILED, Job, worker
from .words import plain
from .work import generate

_START = {
    "prompt": "Explain in two sentences why the sky is blue.",
    "tokens": 48,
    "temperature": 0.0,
    "top_k": 0,
    "top_p": 1.0,
    "seed": 0,
    "chat": True,
}
_HELP = {"temperature": "0 takes the likeliest token.", "top_k": "0: all tokens."}


def prompt_form() -> tuple[str, Sampling, bool]:
    """Draw the form; the prompt, how it is continued, and whether the button was pressed."""
    form = Form("generate", _START, _HELP)
    with st.form("prompt-form"):
        form.field(st.text_area, "Prompt", "prompt", height=90)
        places = st.columns(6)
        form.number(places[0], "New tokens", "tokens", 1, 4096)
        form.number(places[1], "Temperature", "temperature", 0.0, 5.0, step=0.1)
        form.number(places[2], "Top-k", "top_k", 0)
        form.number(places[3], "Top-p", "top_p", 0.01, 1.0, step=0.05)
        form.number(places[4], "Sampling seed", "seed", 0)
        form.field(places[5].checkbox, "Chat template", "chat")
        pressed = st.form_submit_button("Generate", type="primary", key="generate")
    values = dict(form.values)
    prompt, tokens = values.pop("prompt"), values.pop("tokens")
    return prompt, Sampling(tokens, **values), pressed


def generation_job(
    key: str,
    model: ModelSpec,
    plan: PruningPlan,
    prompt: str,
    sampling: Sampling,
    recovery: RecoverySpec | None = None,
    *,
    pressed: bool,
) -> Job | None:
    """The job under ``key``, started, or once more, where the button is ``pressed``."""

    if not pressed:
        return worker().find(key)
    _supersede(key)
    worker().forget(key)
    work = partial(generate, model, plan, prompt, sampling, recovery)
    return worker().ask(key, "Generating side by side", work, here())


def _supersede(key: str) -> None:
    """Stop what this session was generating before: nobody looks at it any more."""
    before = st.session_state.get("generation")
    if before not in (None, key) and (job := worker().find(before)) is not None:
        job.cancel()
    st.session_state["generation"] = key


def show_streams(
    job: Job, plan: PruningPlan, name: str, recovery: RecoverySpec | None = None
) -> None:
    """The texts side by side, kept up to date while the job is active."""
    columns = [("dense", "Original", name), ("pruned", "Pruned", f"{plan.realised:.1%} removed")]
    if recovery is not None:
        columns.append(("recovered", "Recovered", f"fine-tuned on {recovery.source}"))

    @st.fragment(run_every=1.0 if job.active else None)
    def panel(was_active: bool) -> None:
        if was_active and not job.active:
            st.rerun()
        _status(job)
        state = job.partial or {}
        for column, (key, title, caption) in zip(st.columns(len(columns)), columns, strict=True):
            with column.container(border=True, height="stretch"):
                st.markdown(f"**{title}** · {plain(caption)}")
                _continuation(state.get(key), job)

    if job.active:
        see_panel()
    panel(job.active)


def _status(job: Job) -> None:
    if job.active:
        left, right = st.columns([5, 1])
        left.progress(job.fraction, text=plain(job.message))
        if right.button("Stop", key=f"cancel-{job.key}", width="stretch"):
            job.cancel()
    elif job.state == FAILED:
        st.error(plain(job.error))
    elif job.state == CANCELLED:
        st.info("Stopped. Press Generate to start again.")


def _continuation(result: Generated | None, job: Job) -> None:
    if result is None:
        st.caption("…" if job.active else "Nothing was generated.")
        return
    st.text(result.text or " ")
    rate = result.tokens_per_second
    speed = f"{rate:.1f} tokens/s" if rate else "-"
    end = ""
    if job.state == DONE:
        end = " · ended by itself" if result.stopped else " · reached the limit of new tokens"
    st.caption(
        f"{result.tokens} tokens · {speed} · prompt read in {result.prompt_seconds:.2f} s{end}"
    )
