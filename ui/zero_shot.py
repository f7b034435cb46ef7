"""The page Zero-shot: the form that says which tasks are measured, on how many rows, the results
while they come in, and the paper's rows beside them."""

from typing import Any

import streamlit as st

from bipcore.data.tasks import KNOWN, local_file, rows_at_hand
from bipcore.evaluation.zero_shot import TaskResult, check_names, requests_of
from bipcore.pipeline.pipeline import measure_states
from bipcore.pipeline.recoveries import State, states_of
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import SEVEN, RecoverySpec, ZeroShotSpec
from bipcore.store.kinds import digest
from bipcore.studies.reproduction.published import paper_name, published_rows
from bipcore.views.style import words
from bipcore.views.zero_shot import (
    MEAN_NOTE,
    accuracy_chart,
    measured_rows,
    paper_rows,
    readable,
    results_frame,
    rows_note,
)

from .estimates import checked_line, job_of
from .figures import show_chart
from .forms import Form
from .results import error_box
from .settings import Settings
from .studies import Study, follow, to_show
from .words import plain
from .work import one_by_one

ROWS = 50
"""Rows of each task that the form starts with: minutes on a CPU."""

_TABLES = (1, 2, 3)
_HELP = {
    "tasks": "The seven of the paper; or type the name of another task of lm_eval, which is then "
    "had from the hub.",
    "rows": "The first ones; 0: all.",
    "shots": "Solved examples in every prompt: few-shot. 0: zero-shot, as the paper has it.",
    "batch": "Requests in a forward pass. It changes speed and memory, not the results.",
}


def states_to_measure(plan: PruningPlan, recovery: RecoverySpec | None = None) -> dict[str, State]:
    """The dense model, and where something was removed the pruned and the recovered one."""
    return states_of(plan if plan.realised else None, recovery)


def zero_shot_form(settings: Settings, states: int) -> tuple[ZeroShotSpec | None, bool]:
    """Draw the form; the tasks it says, None with an error box where it says none, and whether
    Start was pressed. ``states``: of how many models they are measured."""
    values = {"tasks": list(SEVEN), "rows": ROWS, "shots": 0, "batch": ZeroShotSpec.batch_size}
    form = Form("zero-shot", values, _HELP, group=settings.model_spec)
    with st.container(border=True):
        _fields(form)
        return form.start_row(_spec, lambda spec: _note(settings, spec, states))


def _fields(form: Form) -> None:
    form.choices(st, "Tasks", "tasks", SEVEN)
    rows, shots, batch = st.columns(3)
    form.number(rows, "Rows of each", "rows", 0, step=10)
    form.number(shots, "Examples", "shots", 0)
    form.number(batch, "Batch", "batch", 1)


def _spec(values: dict[str, Any]) -> ZeroShotSpec:
    numbers = values["shots"], values["rows"] or None, values["batch"]
    spec = ZeroShotSpec(tuple(values["tasks"]), *numbers)
    check_names(spec)
    return spec


def _note(settings: Settings, spec: ZeroShotSpec, states: int) -> str:
    job = job_of(settings, "zero-shot", tasks=spec)
    return f"{estimate(spec, states)} {checked_line(job)}".rstrip()


def estimate(spec: ZeroShotSpec, states: int) -> str:
    """How much a run is: rows and answers, and where the rows come from."""
    known = [task for task in spec.tasks if task in KNOWN]
    counts = [min(rows_at_hand(task), spec.limit or rows_at_hand(task)) for task in known]
    answers = sum(requests_of(task, spec.limit) for task in known)
    models = "the dense model" if states == 1 else f"{states} models, the dense one among them"
    parts = [f"{sum(counts):,} rows with about {answers:,} answers to score, on {models}."]
    whole = sum(KNOWN[task].rows for task in known)
    if sum(counts) < whole:
        parts.append(f"The whole tasks have {whole:,} rows: this is a sample, not the benchmark.")
    others = [task for task in spec.tasks if task not in KNOWN]
    if others:
        parts.append(f"Not counted: {', '.join(others)}, with as many rows as lm_eval has.")
    if distant := [task for task in spec.tasks if local_file(task) is None]:
        parts.append(f"From the hub: {', '.join(distant)}.")
    return " ".join([*parts, "What is stored is not measured again."])


def show_zero_shot(
    settings: Settings,
    plan: PruningPlan,
    tasks: ZeroShotSpec | None,
    recovery: RecoverySpec | None = None,
    *,
    start: bool,
) -> None:
    """Start the run where asked; show the one of this model that was started last."""
    model = settings.model_spec
    group, own = ("zero-shot", model), None
    states = states_to_measure(plan, recovery)
    if tasks is not None:
        with error_box():
            key = _job_key(settings, tasks, states)
        measured = (tasks, plan.spec.get("sparsity"))
        own = Study(key, f"Zero-shot tasks of {model.name}", measured, group)
    if start:
        own.start(one_by_one(measure_states, model, tasks, states))
    shown = to_show(None, group)
    found = follow(
        shown,
        own,
        nothing="Nothing has been measured yet. Choose the tasks above, and press Start.",
        other="Below is what was measured last; Start measures what is set above.",
        cancelled="Cancelled; the {} results below are kept. Press Start to go on.",
    )
    results: dict[str, list[TaskResult]] = {}
    for state, result in found:
        results.setdefault(state, []).append(result)
    if found:
        _show_results(settings, *shown.spec, results)


def _job_key(settings: Settings, tasks: ZeroShotSpec, states: dict[str, State]) -> str:
    made = [
        [name, plan.to_json() if plan else None, recovery.identity() if recovery else None]
        for name, (plan, recovery) in states.items()
    ]
    return f"zero-shot-{digest([settings.model_spec.identity(), tasks, made])}"


def _show_results(
    settings: Settings,
    tasks: ZeroShotSpec,
    sparsity: float | None,
    results: dict[str, list[TaskResult]],
) -> None:
    frame = results_frame(results)
    st.caption(plain(rows_note(results)))
    st.dataframe(readable(results), hide_index=True)
    st.caption(
        f"In per cent ± one standard error. {MEAN_NOTE} A difference within the standard errors "
        "says nothing about which model is better."
    )
    limit = "all rows" if tasks.limit is None else f"at most {tasks.limit:,} rows of each"
    title = f"Accuracy of {words(settings.model)} by task, {limit}, {tasks.num_fewshot}-shot"
    show_chart(accuracy_chart(frame, title=title), frame, "zero-shot")
    _beside_the_paper(settings, sparsity, results)


def _beside_the_paper(
    settings: Settings, sparsity: float | None, results: dict[str, list[TaskResult]]
) -> None:
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
    rows = paper_rows(table, results, settings.model, sparsity)
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
