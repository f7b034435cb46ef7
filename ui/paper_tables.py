"""The page Paper, results: what was published, and what this machine has measured of it."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial

import pandas as pd
import streamlit as st

from bipcore.store.runs import RunStore
from bipcore.studies.reproduction.published import published_rows
from bipcore.studies.reproduction.rows import Row, Run, measured_rows, spec_of
from bipcore.studies.reproduction.spec import Reproduction, load_reproduction, row_keys
from bipcore.views.reproduction import (
    LIMITED,
    chart_title,
    comparability_table,
    opening,
    reading_notes,
    report_page,
    reproduction_charts,
)
from bipcore.views.reproduction_tables import (
    TITLES,
    comparison_frame,
    readable,
    refused,
    sample_sizes,
)

from .figures import download, show_chart
from .settings import Settings
from .studies import say_refused
from .words import plain

_HEADERS = TITLES | {
    "model": "Model",
    "sparsity_percent": "Sparsity, %",
    "finetuned": "Fine-tuned",
    "method": "Method",
    "wikitext2_ppl": "WikiText-2",
    "ptb_ppl": "PTB",
}


def show_published(name: str) -> None:
    """The published figures, and what may be compared with what."""
    spec = load_reproduction(name)
    st.markdown(spec.shows)
    if spec.table:
        st.subheader("Published")
        st.dataframe(published_rows(spec.table), hide_index=True, column_config=_HEADERS)
    with st.expander("How to read this", expanded=not spec.table):
        for note in reading_notes(spec):
            st.markdown(note)
        if spec.kind == "accuracy":
            st.dataframe(comparability_table(spec), hide_index=True)


def show_measured(settings: Settings, name: str) -> None:
    """What this machine has measured so far, beside the published figures; charts of both."""
    st.subheader("Measured on this machine")
    runs = measured_rows(RunStore(), name)
    if not runs:
        st.info(
            "Nothing of this has been measured on this machine yet. Measure it below, or with the "
            "command that is given there."
        )
        _charts(load_reproduction(name), ())
        return
    own = [run for run in runs if run.model == settings.model]
    runs = [*own, *(run for run in runs if run not in own)]
    run = runs[0]
    if len(runs) > 1:
        words = {_describe(run): run for run in runs}
        run = words[st.selectbox("Of which run", list(words), key=f"paper-run-{name}")]
    else:
        st.caption(plain(_describe(run)))
    show_rows(spec_of(run), run.rows)


def _describe(run: Run) -> str:
    """A run in a line: model, size, calibration, how far it is, when."""
    spec = spec_of(run)
    size = f"limited to {run.limit}" if run.limit is not None else "not limited"
    text = spec.calibration
    when = datetime.fromtimestamp(run.written).strftime("%Y-%m-%d %H:%M")
    tasks = ", no tasks" if spec.tasks is None and load_reproduction(run.name).tasks else ""
    windows = ", ".join(f"{t.text} {t.window}" for t in spec.texts)
    return (
        f"{run.model}, {size}{tasks}, calibrated on {text.source} ({text.samples} × "
        f"{text.seq_len})" + (f", {windows}" if windows else "") + f": {len(run.rows)} of "
        f"{len(row_keys(spec))} rows, {when}"
    )


def show_rows(spec: Reproduction, rows: Sequence[Row]) -> None:
    """The sizes, the table with published, measured and difference, notes and charts."""
    if spec.limit is not None:
        st.warning(LIMITED, icon=":material/science:")
    st.caption(plain(f"{opening(spec, rows).removesuffix(LIMITED)} {sample_sizes(rows)}"))
    say_refused(refused(rows))
    st.dataframe(readable(spec, rows), hide_index=True)
    _charts(spec, rows)
    report, file = partial(report_page, spec, rows), f"reproduce-{spec.name}.html"
    download("Report as one HTML page", file, report, key="paper-html")


def _charts(spec: Reproduction, rows: Sequence[Row]) -> None:
    """One chart at a time, where there are several."""
    charts = reproduction_charts(spec, rows)
    if not charts:
        return
    chosen = next(iter(charts))
    if len(charts) > 1:
        first = "average" if "average" in charts else chosen
        chosen = st.segmented_control(
            "Chart",
            list(charts),
            default=first,
            key=f"paper-chart-{spec.name}",
            format_func=chart_title,
        )
    frame: pd.DataFrame = comparison_frame(spec, rows)
    if chosen is not None:
        show_chart(charts[chosen], frame, f"{spec.name}-{chosen}".replace("@", "-"))
