"""The page Runs: what is stored, opening, comparing and deleting it."""

from collections.abc import Sequence

import pandas as pd
import streamlit as st

from bipcore.kinds import KINDS
from bipcore.store.kinds import digest
from bipcore.store.roots import check_store
from bipcore.store.runs import RunStore
from bipcore.studies.runs import STATES, Run, list_runs
from bipcore.views.runs import compared, readable, runs_frame, size

from .figures import download
from .navigation import page_link
from .openings import follow, kept_plans, opening
from .results import error_box
from .words import plain

_MOST_COMPARED = 8
_TALLEST = 600
"""Pixels of the table."""

_DELETING, _DELETED = "runs-deleting", "runs-deleted"
_COLUMNS = {
    "Kind": st.column_config.TextColumn(width=120),
    "Figure": st.column_config.TextColumn(width=90),
    "Value": st.column_config.NumberColumn(format="%.4g", width=65),
    "Settings": st.column_config.TextColumn(width=240),
    "Model": st.column_config.TextColumn(width=100),
    "When": st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm", width=125),
    "Took": st.column_config.NumberColumn("Took, s", format="%.1f", width=65),
    "Size": st.column_config.NumberColumn(format="bytes", width=70),
    "State": st.column_config.TextColumn(width=70),
}


def stored_runs() -> list[Run]:
    """Everything in the run store, the latest first."""
    with error_box():
        store = RunStore()
        check_store(store.root)
        return list_runs(store, KINDS)


def show_runs(runs: Sequence[Run]) -> None:
    """The table with its filters, and what can be done with the rows that are ticked."""
    if said := st.session_state.pop(_DELETED, None):
        st.success(said)
    if not runs:
        st.info("Nothing has been computed yet: load a model and score it, and it is listed here.")
        page_link("pages/scores.py", "The first step: scores", ":material/bar_chart:")
        return
    shown = _filtered(runs)
    total = size(sum(run.size for run in runs))
    count = f"{len(shown):,} of {len(runs):,}" if len(shown) < len(runs) else f"{len(runs):,}"
    where = f"{count} runs, {total} in all, in {RunStore().root}."
    st.caption(plain(f"{where} Tick rows at the left to open, compare or delete them."))
    ticked = _ticked(shown)
    download(
        "Download as CSV",
        "runs.csv",
        lambda: runs_frame(ticked or shown).to_csv(index=False),
        key="runs-csv",
        help="The rows that are ticked, or all that are shown.",
    )
    if ticked:
        _actions(runs, ticked)


def _filtered(runs: Sequence[Run]) -> list[Run]:
    """The runs of the kinds, models and states that are chosen; of all where none is."""
    chosen = []
    ways = (
        ("Kind", lambda run: run.title),
        ("Model", lambda run: run.model),
        ("State", lambda run: run.state),
    )
    for place, (label, of) in zip(st.columns([3, 3, 2]), ways, strict=True):
        options = sorted({of(run) for run in runs} - {""})
        said = place.multiselect(label, options, key=f"runs-{label.lower()}", placeholder="All")
        chosen.append((of, set(said)))
    return [run for run in runs if all(not said or of(run) in said for of, said in chosen)]


def _ticked(shown: Sequence[Run]) -> list[Run]:
    """Draw the table; the runs whose rows are ticked."""
    frame = readable(shown)
    frame["Size"] = [run.size for run in shown]
    event = st.dataframe(
        frame,
        hide_index=True,
        column_config=_COLUMNS,
        on_select="rerun",
        selection_mode="multi-row",
        height=min(35 * len(frame) + 38, _TALLEST),
        placeholder="–",
        key=f"runs-table-{digest([[run.kind, run.name, run.size] for run in shown])}",
    )
    rows = event["selection"]["rows"]
    return [shown[row] for row in rows if row < len(shown)]


def _actions(runs: Sequence[Run], ticked: Sequence[Run]) -> None:
    """What can be done with the ticked runs."""
    if len(ticked) == 1:
        _open(runs, ticked[0])
    else:
        _compare(ticked)
    _delete(ticked)


def _open(runs: Sequence[Run], run: Run) -> None:
    st.subheader(run.title)
    about = f"{run.state.capitalize()}. {STATES[run.state]}"
    st.caption(plain(f"{about} ({run.fault})" if run.fault else about))
    _tables(compared([run]), ("Settings", "Figures"), st.columns(2))
    found = opening(run, kept_plans(list(runs)))
    if isinstance(found, str):
        st.caption(plain(found))
        return
    note = f"There press {found.pressed}: what is stored is read." if found.pressed else None
    if st.button("Open", key="runs-open", type="primary", help=note):
        follow(found)


def _compare(ticked: Sequence[Run]) -> None:
    st.subheader("Side by side")
    if len(ticked) > _MOST_COMPARED:
        st.caption(f"The first {_MOST_COMPARED} of the {len(ticked)} that are ticked.")
    tables = compared(ticked[:_MOST_COMPARED])
    _tables(tables, ("Settings that differ", "Figures"), (st.container(), st.container()))


def _tables(frames: Sequence[pd.DataFrame], titles: Sequence[str], places: Sequence) -> None:
    for title, frame, place in zip(titles, frames, places, strict=True):
        place.markdown(f"**{title}**")
        if len(frame):
            place.dataframe(frame, hide_index=True)
        else:
            place.caption("There are none.")


def _delete(ticked: Sequence[Run]) -> None:
    """The button Delete, and once it is pressed the question whether that is meant."""
    names = [(run.kind, run.name) for run in ticked]
    what = "1 run" if len(ticked) == 1 else f"{len(ticked)} runs"
    freed = size(sum(run.size for run in ticked))
    if st.session_state.get(_DELETING) != names:
        st.button(
            f"Delete {what}…",
            key="runs-delete",
            icon=":material/delete:",
            on_click=lambda: st.session_state.update({_DELETING: names}),
        )
        return
    kinds = ", ".join(dict.fromkeys(run.title for run in ticked))
    again = "What is asked for again is computed again."
    if any(run.kind in ("plans", "recoveries") for run in ticked):
        again += " A plan edited by hand is gone for good, and a recovery has to be trained anew."
    st.warning(plain(f"Delete {what} ({kinds}), {freed} on the disk? {again}"))
    with st.container(horizontal=True):
        if st.button("Delete", key="runs-delete-sure", type="primary"):
            _deleted(ticked, what)
        st.button("Keep", key="runs-keep", on_click=_keep)


def _keep() -> None:
    st.session_state.pop(_DELETING, None)


def _deleted(ticked: Sequence[Run], what: str) -> None:
    """Delete, and run the page anew, which says so."""
    _keep()
    with error_box():
        freed = RunStore().delete([entry for run in ticked for entry in run.entries])
    st.session_state[_DELETED] = f"Deleted {what}: {size(freed)} freed."
    st.rerun()
