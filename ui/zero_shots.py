"""The job of a zero-shot run, its results while they come in, and the paper's rows beside them."""

import streamlit as st

from bipcore.evaluation.zero_shot import TaskResult
from bipcore.pipeline.pipeline import Pipeline, measure_states
from bipcore.pipeline.recoveries import State, states_of
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import SEVEN, RecoverySpec, ZeroShotSpec
from bipcore.store.kinds import digest
from bipcore.studies.reproduction.published import paper_name, published_rows
from bipcore.views.zero_shot import (
    MEAN_NOTE,
    accuracy_chart,
    measured_rows,
    paper_rows,
    readable,
    results_frame,
    rows_note,
)

from .figures import show_chart
from .jobs import CANCELLED, FAILED, Job, worker
from .results import error_box, show_progress
from .settings import Settings
from .zero_shot_form import Run, form_values, latest_runs

_TABLES = (1, 2, 3)

Found = tuple[tuple[str, TaskResult], ...]


def states_to_measure(plan: PruningPlan, recovery: RecoverySpec | None = None) -> dict[str, State]:
    """The dense model, and where something was removed the pruned and the recovered one."""
    return states_of(plan if plan.realised else None, recovery)


def show_zero_shot(
    settings: Settings,
    plan: PruningPlan,
    tasks: ZeroShotSpec | None,
    recovery: RecoverySpec | None = None,
    *,
    start: bool,
) -> None:
    """Start the run where asked; show the one in the form, else the last one of this model."""
    states = states_to_measure(plan, recovery)
    with error_box():
        key = _job_key(settings, tasks, states) if tasks else ""
    if start:
        _submit(key, settings, tasks, states)
        sparsity = plan.spec.get("sparsity")
        latest_runs()[settings.model_spec] = Run(key, tasks, sparsity, form_values())
    last = latest_runs().get(settings.model_spec)
    job = worker().find(last.key) if last else None
    if job is None:
        st.info("Nothing has been measured yet. Choose the tasks above, and press Start.")
        return
    if last.key != key:
        st.info("Below is what was measured last; Start measures what is set above.")
    found: Found = job.partial or ()
    _status(job, len(found))
    if found:
        _show_results(settings, last, _by_state(found))


def _job_key(settings: Settings, tasks: ZeroShotSpec, states: dict[str, State]) -> str:
    made = [
        [name, plan.to_json() if plan else None, recovery.identity() if recovery else None]
        for name, (plan, recovery) in states.items()
    ]
    return f"zero-shot-{digest([settings.model_spec.identity(), tasks, made])}"


def _submit(key: str, settings: Settings, tasks: ZeroShotSpec, states: dict[str, State]) -> None:
    model = settings.model_spec

    def work(pipeline: Pipeline, job: Job) -> Found:
        for pair in measure_states(pipeline, model, tasks, states):
            job.partial = (*(job.partial or ()), pair)
        return job.partial

    worker().forget(key)
    worker().submit(key, f"Zero-shot tasks of {model.name}", work)


def _by_state(found: Found) -> dict[str, list[TaskResult]]:
    results: dict[str, list[TaskResult]] = {}
    for state, result in found:
        results.setdefault(state, []).append(result)
    return results


def _status(job: Job, seen: int) -> None:
    """How it goes; a new result runs the page again, so that table and chart grow."""
    if job.active:
        show_progress(job, seen=seen)
    elif job.state == FAILED:
        st.error(job.error)
    elif job.state == CANCELLED:
        st.info(f"Cancelled; the {seen} results below are kept. Press Start to go on.")


def _show_results(settings: Settings, run: Run, results: dict[str, list[TaskResult]]) -> None:
    frame = results_frame(results)
    st.caption(rows_note(results))
    st.dataframe(readable(results), hide_index=True)
    st.caption(
        f"In per cent ± one standard error. {MEAN_NOTE} A difference within the standard errors "
        "says nothing about which model is better."
    )
    limit = "all rows" if run.tasks.limit is None else f"at most {run.tasks.limit:,} rows of each"
    title = f"Accuracy of {settings.model} by task, {limit}, {run.tasks.num_fewshot}-shot"
    show_chart(accuracy_chart(frame, title=title), frame, "zero-shot")
    _beside_the_paper(settings, run, results)


def _beside_the_paper(settings: Settings, run: Run, results: dict[str, list[TaskResult]]) -> None:
    """The paper's published rows, and which of them may be compared with what was measured."""
    st.subheader("Beside the paper")
    models = {table: str(published_rows(table)["model"].iloc[0]) for table in _TABLES}
    own = next((t for t, model in models.items() if model == paper_name(settings.model)), 1)
    table = st.selectbox(
        "Published table",
        _TABLES,
        index=_TABLES.index(own),
        key=f"zero-shot-table-{own}",
        format_func=lambda number: f"Table {number}: {models[number]}",
    )
    rows = paper_rows(table, results, settings.model, run.sparsity)
    fits = int((rows["compare"] == "yes").sum())
    st.markdown(
        f"**{fits or 'None'} of these {len(rows)} published rows may be compared** with what was "
        "measured here: only rows of the same model, at the same sparsity, and where all rows of "
        "all seven tasks were measured without examples. A run on another model, or on a part of "
        "the rows, says nothing about them."
    )
    config = {
        name: st.column_config.NumberColumn(name, format="%.2f") for name in (*SEVEN, "average")
    }
    config |= {"row": st.column_config.TextColumn("Measured", width="medium")}
    st.dataframe(measured_rows(results), hide_index=True, column_config=config)
    config |= {
        "row": st.column_config.TextColumn("Published", width="medium"),
        "compare": st.column_config.TextColumn("May be compared", width="medium"),
    }
    shown = rows[["row", "compare", *SEVEN, "average"]]
    st.dataframe(shown, hide_index=True, column_config=config)
    st.caption(
        "Per cent, from arXiv 2412.06419. The tables do not say whether acc or acc_norm is meant; "
        "measured is acc_norm where a task has it, else acc."
    )
