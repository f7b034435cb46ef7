"""Perplexity, and other metrics, of the dense, the pruned and the recovered model."""

from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from bipcore.data.texts import NAMED
from bipcore.evaluation.metrics import METRICS, chosen_metrics
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import PERPLEXITY, EvaluationSpec, RecoverySpec
from bipcore.store.kinds import digest
from bipcore.studies.points import text_names

from .jobs import worker
from .results import error_box, need
from .settings import Settings
from .work import measure_each

WINDOWS = (128, 256, 512, 1024, 2048)
_ASKED = "states-asked"


def compare_states(settings: Settings, plan: PruningPlan, recovery: RecoverySpec | None) -> None:
    """A form for texts and windows, and the figures of every state of the model."""
    limit = plan.shape.max_positions or WINDOWS[-1]
    with st.form("states-form"):
        columns = st.columns([3, 3, 2, 1], vertical_alignment="bottom")
        texts = columns[0].multiselect("Test texts", NAMED, ["builtin"], key="states-texts")
        fitting = [window for window in WINDOWS if window <= limit] or [limit]
        windows = columns[1].multiselect(
            "Windows, tokens",
            fitting,
            [window for window in (128, 2048) if window in fitting] or fitting[-1:],
            key="states-windows",
            help="Perplexity falls as the window grows: only figures of the same window can be "
            "compared. 128 and 2048 are both in print.",
        )
        tokens = columns[2].number_input(
            "Test tokens", 0, None, 4096, 1024, key="states-tokens", help="0: all of them."
        )
        metrics = choose_metrics(st, "states-metrics")
        pressed = columns[3].form_submit_button("Measure", width="stretch")
    if pressed:
        st.session_state[_ASKED] = True
    if not st.session_state.get(_ASKED) or not (texts and windows and metrics):
        return
    with error_box():
        first = int(tokens) or None
        specs = [EvaluationSpec(t, w, first, metrics) for t in texts for w in windows]
    figures = _measured(settings, plan, recovery, specs, again=pressed)
    st.dataframe(figures, hide_index=True)
    for metric in chosen_metrics(metrics):
        st.caption(metric.explanation)


def ask_for(text: str, window: int, tokens: int, metric: str) -> dict[str, Any]:
    """What of the session has the form ask for one figure, and the page measure it."""
    said = {"texts": [text], "windows": [window], "tokens": tokens, "metrics": [metric]}
    return {f"states-{name}": value for name, value in said.items()} | {_ASKED: True}


def choose_metrics(place, key: str) -> tuple[str, ...]:
    """The names of the metrics to measure; nothing is asked where there is one alone."""
    if len(METRICS) == 1:
        return tuple(METRICS)
    titles = {name: metric.heading for name, metric in METRICS.items()}
    return tuple(
        place.multiselect("Metrics", titles, [PERPLEXITY], key=key, format_func=titles.get)
    )


def _measured(
    settings: Settings,
    plan: PruningPlan,
    recovery: RecoverySpec | None,
    specs: list[EvaluationSpec],
    *,
    again: bool,
) -> pd.DataFrame:
    """One row a text, window and metric, a column for each state; measured where not stored, and
    what failed only ``again`` where that is asked for."""
    states = {"Dense": (None, None), "Pruned": (plan, None)}
    if recovery is not None:
        states["Recovered"] = (plan, recovery)
    model = settings.model_spec
    with error_box():
        identities = [spec.asked() for spec in specs]
        made = [recovery.identity()] if recovery else []
        key = "states-" + digest([plan.to_json(), model.identity(), identities, made])
    if again and (job := worker().find(key)) is not None and job.error:
        worker().forget(key)
    work = partial(measure_each, model, specs, states)
    found = need(key, "Measuring the perplexity of every state of the model", work)
    for note in {one["note"]: None for row in found for one in row.values() if "note" in one}:
        st.warning(note)
    names = {spec: name for name, spec in text_names(specs).items()}
    return pd.DataFrame(
        {
            "Text": names[spec],
            "Window": spec.window,
            "Tokens": row["Dense"]["tokens"],
            **({"Metric": metric.heading} if len(METRICS) > 1 else {}),
            **{title: metric.say(one[metric.name], grouped=True) for title, one in row.items()},
        }
        for spec, row in zip(specs, found, strict=True)
        for metric in chosen_metrics(spec.metrics)
    )
