"""Comparing what models expect of a text, and showing where they part."""

from collections.abc import Sequence
from functools import partial

import pandas as pd
import streamlit as st

from bipcore.pipeline.recoveries import Recovery, State
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import EvaluationSpec
from bipcore.store.kinds import digest
from bipcore.views.differences import FULL, depth_chart, depth_frame, worst_frame

from .address import here
from .engines import Work
from .figures import metric_row, show_chart
from .forms import Form
from .jobs import DONE, FAILED, Job, worker
from .passages import OF_ONE_TEXT, OWN, SOURCES, Asked, Changes, Passage
from .results import error_box, show_progress
from .settings import Settings
from .words import plain
from .work import compare_by_depth, compare_on_text

_TEXT = (
    "The Eiffel Tower in Paris was finished in 1889 and is about 330 metres tall. It was designed "
    "by the company of Gustave Eiffel, and for forty years it was the tallest structure in the "
    "world. In Python, a list is written with square brackets: numbers = [1, 2, 3]. Water boils "
    "at 100 degrees Celsius."
)
_TOKENS = 2048


def text_form(settings: Settings) -> tuple[Asked, bool]:
    """Draw the form; what is to be read, and whether its button was pressed."""
    form = Form("changes", {"source": OWN, "text": _TEXT, "tokens": _TOKENS})
    with st.form("changes-text-form"):
        left, right = st.columns([3, 1])
        titled = {"format_func": SOURCES.get}
        form.field(left.selectbox, "What they read", "source", tuple(SOURCES), **titled)
        form.number(right, "Tokens at most", "tokens", 2, 65_536, step=1024)
        form.field(st.text_area, "The text below", "text", height=140, max_chars=20_000)
        pressed = st.form_submit_button("Compare", type="primary", key="changes")
    said = form.values
    calibration = settings.score_spec.calibration
    return Asked(said["source"], said["text"], calibration, said["tokens"]), pressed


def states_beside(plan: PruningPlan, recovery: Recovery | None) -> dict[str, State]:
    """The models that are compared with the original, by their titles."""
    states: dict[str, State] = {"Pruned": (plan, None)}
    if recovery is not None:
        states["Recovered"] = (plan, recovery.spec)
    return states


def changes_job(
    settings: Settings,
    plan: PruningPlan,
    recovery: Recovery | None,
    asked: Asked,
    *,
    pressed: bool,
) -> Job | None:
    """The job that compares the models on a text: started when the button is ``pressed``."""
    key = _key("changes", settings, plan, recovery, asked)
    work = partial(compare_on_text, settings.model_spec, asked, states_beside(plan, recovery))
    return _job(key, "Comparing the models on a text", work, pressed=pressed)


def _key(
    what: str, settings: Settings, plan: PruningPlan, recovery: Recovery | None, asked: Asked
) -> str:
    with error_box():
        name = recovery.name if recovery else None
        made = [plan.to_json(), settings.model_spec.identity(), name, asked]
        return f"{what}-" + digest(made)


def _job(key: str, title: str, work: Work, *, pressed: bool) -> Job | None:
    """The job under ``key``, started anew where its button is ``pressed``."""
    if pressed:
        worker().forget(key)
        return worker().submit(key, title, work, here())
    return worker().find(key)


def show_changes(job: Job | None, asked: Asked) -> None:
    """The figures of all models, the text with its tokens coloured, and the worst places."""
    if job is None:
        st.info("Press Compare: each model reads the text once.")
        return
    if not _finished(job):
        return
    found: list[Changes] = job.result
    for one in found:
        _figures(one, titled=len(found) > 1)
    titles = {one.title: one for one in found}
    shown = found[0]
    if len(found) > 1:
        chosen = st.segmented_control(
            "Against the original", tuple(titles), default=found[-1].title, key="changes-other"
        )
        shown = titles.get(chosen, found[-1])
    if shown.tokens == asked.tokens:
        st.caption(f"Only the first {shown.tokens:,} tokens of the text are compared.")
    passage = shown.passages[0] if asked.source in OF_ONE_TEXT else _choose(shown.passages)
    st.caption(
        f"The stronger a token is coloured, the further apart the models are on what comes after "
        f"it: white is none, full colour {FULL:g} nats and more. Point at a token for what either "
        "expects there."
    )
    st.html(passage.html)
    st.subheader("The tokens after which they are furthest apart")
    st.dataframe(
        worst_frame(shown.rows, ("Original", shown.title)),
        hide_index=True,
        column_config={"Divergence, nats": st.column_config.NumberColumn(format="%.2f")},
        key="changes-worst",
    )


def _figures(found: Changes, *, titled: bool) -> None:
    metric = metric_row()
    if titled:
        metric("Against the original", found.title)
    metric("Tokens", f"{found.tokens:,}")
    about = "The mean of KL(original ‖ other) of the next token, over all tokens."
    metric("Mean divergence", f"{found.kl:.3f} nats", help=about)
    about = "The share of tokens after which both models find the same next token likeliest."
    metric("Same likeliest token", f"{found.agreement:.0%}", help=about)


def _choose(passages: Sequence[Passage]) -> Passage:
    """The passage that is ticked in a list of the worst, at first the worst of all."""
    st.subheader("The passages in which they are furthest apart")
    st.caption("Tick one to read it below.")
    frame = pd.DataFrame(
        {
            "From token": [one.start for one in passages],
            "Divergence, nats": [one.kl for one in passages],
            "Same likeliest": [one.agreement for one in passages],
            "Passage": [" ".join(one.text.split()) for one in passages],
        }
    )
    event = st.dataframe(
        frame,
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        height=250,
        column_config={
            "Divergence, nats": st.column_config.NumberColumn(format="%.2f", width="small"),
            "Same likeliest": st.column_config.NumberColumn(format="percent", width="small"),
            "From token": st.column_config.NumberColumn(width="small"),
        },
        key="changes-passages",
    )
    rows = event["selection"]["rows"]
    return passages[rows[0] if rows and rows[0] < len(passages) else 0]


def show_depth(
    settings: Settings, plan: PruningPlan, recovery: Recovery | None, asked: Asked
) -> None:
    """Where in their depth the models part on the beginning of the text, when it is asked for."""
    st.subheader("Block by block")
    st.caption(
        "After every block: how far the hidden states point away from the original's (1 − cosine), "
        "and how far apart the two next tokens are that the final norm and head would make of them "
        "there, the logit lens. Of the first 256 tokens of the text that is typed above."
    )
    absent = not asked.text.strip()
    pressed = st.button("Compare block by block", key="changes-depth", disabled=absent)
    key, tuned = _key("depth", settings, plan, recovery, asked), recovery.spec if recovery else None
    limit = EvaluationSpec(max_tokens=_TOKENS)
    work = partial(compare_by_depth, settings.model_spec, limit, plan, tuned, asked.text)
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
