"""The page Sweep: the form that says what is measured, and the results while they come in."""

import re
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd
import streamlit as st

from bipcore.criteria import CRITERIA
from bipcore.data.texts import NAMED
from bipcore.evaluation.estimating import Job
from bipcore.evaluation.metrics import METRICS
from bipcore.settings import PRESETS, parse_list
from bipcore.specs import CalibrationSpec, EvaluationSpec, PlanSpec
from bipcore.store.kinds import digest
from bipcore.studies.points import (
    Point,
    SweepSpec,
    check_sweep,
    figures_of,
    point_specs,
    text_names,
)
from bipcore.studies.sweep import run_sweep
from bipcore.views.sweep import (
    cost_chart,
    metric_chart,
    opening,
    size_chart,
    sizes_of,
    sparsities_of,
    sweep_html,
)
from bipcore.views.sweep_tables import column, measured_in, readable, refused, summary, sweep_frame

from .estimates import checked_line
from .figures import download, show_chart
from .forms import Form
from .settings import Settings
from .studies import Study, follow, say_refused, to_show
from .words import plain
from .work import one_by_one

_HELP = {
    "presets": "Each is a line of its own, with the preset's criterion and plan options.",
    "percents": "Several with commas between.",
    "seeds": "Each draws other calibration samples, and other random scores. Several, with commas "
    "between, give error bars.",
    "sizes": "Several with commas between.",
    "texts": "Or type the path of a text or JSONL file on the machine that runs this app.",
    "tokens": "0: all of them.",
    "profile": "Measure latency and peak memory, too. Do nothing else on the machine meanwhile.",
}


def sweep_form(settings: Settings) -> tuple[SweepSpec | None, bool]:
    """Draw the form; the sweep it says, None with an error box where it says none, and whether
    Start was pressed."""
    default = SweepSpec()
    values = {
        "criteria": list(default.criteria),
        "presets": [],
        "percents": ", ".join(f"{100 * s:g}" for s in default.sparsities),
        "seeds": str(settings.seed),
        "sizes": str(settings.samples),
        "texts": ["builtin"],
        "window": default.texts[0].window,
        "tokens": default.texts[0].max_tokens,
        "profile": False,
        "metrics": list(default.texts[0].metrics),
    }
    form = Form("sweep", values, _HELP, group=settings.model_spec)
    with st.container(border=True):
        _lines_part(form)
        _texts_part(form)
        return form.start_row(
            lambda said: _spec(settings, said), lambda spec: _note(settings, spec)
        )


def _lines_part(form: Form) -> None:
    criteria, presets = st.columns([3, 1])
    titles = {name: criterion.title for name, criterion in CRITERIA.items()}
    form.field(criteria.multiselect, "Criteria", "criteria", titles, format_func=titles.get)
    form.field(presets.multiselect, "Presets", "presets", tuple(PRESETS))
    percents, seeds, sizes = st.columns(3)
    form.field(percents.text_input, "Sparsities, % of the blocks' parameters", "percents")
    form.field(seeds.text_input, "Seeds", "seeds")
    form.field(sizes.text_input, "Calibration samples", "sizes")


def _texts_part(form: Form) -> None:
    texts, window, tokens, profile = st.columns([3, 1, 1, 1], vertical_alignment="bottom")
    form.choices(texts, "Test texts", "texts", NAMED)
    form.number(window, "Window, tokens", "window", 2)
    form.number(tokens, "Test tokens", "tokens", 0)
    form.field(profile.checkbox, "Profile", "profile")
    if len(METRICS) > 1:
        titles = {name: metric.heading for name, metric in METRICS.items()}
        form.field(st.multiselect, "Metrics", "metrics", titles, format_func=titles.get)


def _spec(settings: Settings, values: dict[str, Any]) -> SweepSpec:
    """The sweep of the form and the sidebar; what does not count is left at its default, so that
    it does not make another sweep of it."""
    default = PlanSpec()
    percents = parse_list(values["percents"], float, "sparsities")
    calibration = settings.score_spec.calibration
    field = {"text_field": calibration.text_field}
    how = {"window": values["window"], "max_tokens": values["tokens"] or None, **field}
    metrics = tuple(values["metrics"])
    texts = [EvaluationSpec(text, **how, metrics=metrics) for text in values["texts"]]
    spec = SweepSpec(
        model=settings.model_spec,
        criteria=tuple(values["criteria"]),
        sparsities=tuple(round(percent / 100, 6) for percent in percents),
        seeds=parse_list(values["seeds"], int, "seeds"),
        samples=parse_list(values["sizes"], int, "calibration samples"),
        calibration=CalibrationSpec(
            calibration.source,
            seq_len=calibration.seq_len,
            beginning=calibration.beginning,
            **field,
        ),
        plan=replace(settings.plan_spec, sparsity=default.sparsity, source=default.source),
        texts=tuple(texts),
        profile=values["profile"],
        presets=tuple(values["presets"]),
    )
    check_sweep(spec)
    return spec


def _note(settings: Settings, spec: SweepSpec) -> str:
    texts = len(text_names(spec.texts))
    note = (
        f"{len(point_specs(spec))} points, the dense model among them; each is one pruned model on "
        f"{texts} test text{'s' if texts > 1 else ''}. Calibration on {spec.calibration.source}, "
        f"{spec.calibration.seq_len} tokens a sample, and plan options as in the sidebar. What is "
        "stored is not computed again."
    )
    points = len(spec.sparsities) * len(spec.seeds) * len(spec.samples)
    score = replace(
        settings.score_spec, calibration=replace(spec.calibration, samples=max(spec.samples))
    )
    how = {"text": spec.texts[0], "criteria": spec.criteria, "points": points} if spec.texts else {}
    plan = replace(spec.plan, sparsity=min(spec.sparsities))
    note += f" {checked_line(Job('sweep', score, plan, **how))}".rstrip()
    return note + " The edited plan is not used here." * bool(settings.source)


def show_sweep(settings: Settings, spec: SweepSpec | None, *, start: bool) -> None:
    """Start the sweep where asked; show the one in the form, else the last one of this model."""
    group, own = ("sweep", settings.model_spec), None
    if spec is not None:
        own = Study(f"sweep-{digest(spec)}", f"Sweep of {spec.model.name}", spec, group)
    if start:
        own.start(one_by_one(run_sweep, spec))
    shown = to_show(own, group)
    points = follow(
        shown,
        own,
        nothing="Nothing has been measured yet. Choose above what to compare, and press Start.",
        other="Below is the sweep that was started last; Start measures what is set above.",
        cancelled="Cancelled; the {} points below are kept. Press Start to go on.",
    )
    if points:
        show_results(shown.spec, points)


def show_results(spec: SweepSpec, points: tuple[Point, ...]) -> None:
    """Charts, notes on what could not be done, and all points as a table."""
    frame = sweep_frame(points)
    st.caption(plain(opening(spec)))
    say_refused(refused(frame))
    means, sizes = summary(frame), sizes_of(frame)
    size = _choice("Calibration samples", sizes, sizes[-1:], "sweep-size")
    shown = list(enumerate(figures_of(spec)))
    for index, (metric, name) in shown:
        figure = metric_chart(frame, spec, name, size, metric=metric)
        show_chart(figure, means, f"sweep-{index}-{_slug(name)}")
    if len(sizes) > 1:
        shares = sparsities_of(frame)
        share = _choice("Sparsity", shares, shares[:1], "sweep-share", form=lambda s: f"{s:.3g}")
        for index, (metric, name) in shown:
            figure = size_chart(frame, spec, name, share, metric=metric)
            show_chart(figure, means, f"sweep-sizes-{index}-{_slug(name)}")
    show_chart(cost_chart(frame, spec), means, "sweep-cost")
    _tables(spec, points, frame)


def _choice(label: str, options: list, first: list, key: str, form=str) -> Any:
    """One of ``options``; nothing is asked where there is no choice."""
    if len(options) < 2:
        return first[0] if first else None
    chosen = st.segmented_control(label, options, default=first[0], key=key, format_func=form)
    return first[0] if chosen is None else chosen


def _slug(name: str) -> str:
    return re.sub(r"[^\w.-]+", "-", name)


def _tables(spec: SweepSpec, points: tuple[Point, ...], frame: pd.DataFrame) -> None:
    st.subheader("Means over the seeds")
    st.dataframe(readable(frame, spec), hide_index=True)
    st.subheader("All points")
    shown = frame.dropna(axis="columns", how="all")
    measured = [column(metric.name, text) for metric, text in measured_in(frame)]
    numbers = [name for name in shown if name.startswith("realised") or name in measured]
    config = {name: st.column_config.NumberColumn(format="%.4g") for name in numbers}
    st.dataframe(shown, hide_index=True, column_config=config)
    with st.container(horizontal=True):
        table, report = partial(frame.to_csv, index=False), partial(sweep_html, spec, points)
        download("All points as CSV", "sweep.csv", table, key="sweep-csv")
        download("Report as one HTML page", "sweep.html", report, key="sweep-html")
