"""More metrics than perplexity through the pipeline: each figure is stored by itself."""

import json
import math
from dataclasses import replace

import pytest

from bipcore.data.texts import find_text
from bipcore.errors import InputError
from bipcore.evaluation.metrics import EVALUATIONS, METRICS
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.kinds import canonical
from bipcore.store.runs import RunStore
from bipcore.studies.points import POINTS, SweepSpec, figures_of, text_names
from bipcore.studies.sweep import run_sweep
from bipcore.views.sweep import opening, sections
from bipcore.views.sweep_tables import measured_in, readable, sweep_frame
from tests.helpers.folders import model_folder
from tests.helpers.metrics import NAME, watch_divergence
from tests.helpers.passes import counted_passes
from tests.helpers.tiny import one_thread as one_thread

ALONE = EvaluationSpec(window=32, max_tokens=96)
BOTH = EvaluationSpec(window=32, max_tokens=96, metrics=("perplexity", NAME))
PLAN = PlanSpec(sparsity=0.5)


@pytest.fixture(scope="module")
def spec(tmp_path_factory) -> ScoreSpec:
    folder = model_folder(tmp_path_factory.mktemp("metrics") / "model")
    return ScoreSpec(ModelSpec(str(folder), device="cpu"), CalibrationSpec(samples=4, seq_len=16))


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


@pytest.fixture
def measured(monkeypatch) -> list[float]:
    """There is a second metric; its values, as they are measured."""
    return watch_divergence(monkeypatch)


@pytest.fixture
def sweep(spec) -> SweepSpec:
    settings = {"criteria": ("magnitude", "wanda"), "sparsities": (0.2, 0.5), "samples": (4,)}
    calibration = CalibrationSpec(seq_len=16)
    return SweepSpec(spec.model, calibration=calibration, texts=(BOTH,), **settings)


def files(store: RunStore, kind) -> dict[str, tuple[str, int]]:
    """Content and time of every stored result of a kind, by its name."""
    return {
        path.parent.name: (path.read_text(), path.stat().st_mtime_ns)
        for path in (store.root / kind.name).glob("*/data.json")
    }


def test_a_perplexity_is_stored_as_it_always_was(pipeline, spec):
    found = pipeline.evaluate(spec.model, ALONE)
    (entry,) = pipeline.store.entries(EVALUATIONS)
    content = find_text("builtin", purpose="test").identity
    assert entry.spec == {
        "model": canonical(spec.model.identity()),
        "plan": None,
        "evaluation": {"text": "builtin", "window": 32, "max_tokens": 96, "content": content},
    }
    text = (entry.path / "data.json").read_text()
    assert text == (
        f'{{"perplexity": {found["perplexity"]!r}, "text": "builtin", "window": 32, '
        '"max_tokens": 96, "tokens": 96, "beginning": "none"}'
    )
    assert list(found.items()) == list(json.loads(text).items())


def test_a_point_of_perplexity_alone_is_stored_as_it_always_was(pipeline, spec, sweep):
    next(run_sweep(pipeline, replace(sweep, texts=(ALONE,))))
    (entry,) = pipeline.store.entries(POINTS)
    (key,) = entry.spec.pop("texts")
    assert entry.spec == {
        "profile": None,
        "model": canonical(spec.model.identity()),
        "plan": None,
    }
    data = json.loads((entry.path / "data.json").read_text())
    counted = ["realised", "realised_total", "parameters", "macs", "seq_len"]
    assert list(data) == [*counted, "perplexity", "seconds"]
    assert data["perplexity"] == {key: pipeline.evaluate(spec.model, ALONE)["perplexity"]}


def test_a_metric_beside_perplexity_leaves_its_result_alone(pipeline, spec, measured):
    alone = pipeline.evaluate(spec.model, ALONE)
    before = files(pipeline.store, EVALUATIONS)
    both = pipeline.evaluate(spec.model, BOTH)
    assert both == {"perplexity": alone["perplexity"], NAME: 0.0, **alone}
    assert list(both)[:2] == ["perplexity", NAME]
    after = files(pipeline.store, EVALUATIONS)
    assert before.items() <= after.items()
    assert len(after) == 2


def test_each_figure_is_computed_once_whatever_it_is_asked_with(pipeline, spec, measured):
    plan = pipeline.plan(spec, PLAN)
    other = EvaluationSpec(window=32, max_tokens=96, metrics=(NAME,))
    first = pipeline.evaluate(spec.model, other, plan)
    assert "perplexity" not in first
    both = pipeline.evaluate(spec.model, BOTH, plan)
    assert measured == [both[NAME]]
    assert both[NAME] > 0
    with counted_passes() as passes:
        again = Pipeline(pipeline.store)
        assert again.evaluate(spec.model, BOTH, plan) == both
        assert again.evaluate(spec.model, other, plan) == first
        assert again.evaluate(spec.model, ALONE, plan)["perplexity"] == both["perplexity"]
    assert passes == []


def test_the_dense_model_comes_only_where_it_is_needed(pipeline, spec, monkeypatch):
    given = []

    def sums(logits, tokens, dense) -> tuple[float, int]:
        given.append(dense is not None)
        return 1.0, 1

    for needs in (False, True):
        metric = replace(METRICS["perplexity"], name=f"own-{needs}".lower(), sums=sums)
        monkeypatch.setitem(METRICS, metric.name, replace(metric, needs_dense=needs))
        text = replace(ALONE, metrics=(metric.name,))
        pipeline.evaluate(spec.model, text, pipeline.plan(spec, PLAN))
    assert given == [False, True]


@pytest.mark.parametrize("metrics", [("luck",), ("perplexity", "luck"), ()])
def test_an_unknown_metric_is_refused_before_anything_is_loaded(pipeline, spec, tmp_path, metrics):
    nowhere, text = ModelSpec("/nowhere"), EvaluationSpec(metrics=metrics)
    plan = pipeline.plan(spec, PLAN)
    for refused in (
        lambda: pipeline.evaluate(nowhere, text),
        lambda: pipeline.export(nowhere, plan, tmp_path / "out", evaluation=text),
        lambda: run_sweep(pipeline, SweepSpec(nowhere, texts=(text,))),
    ):
        with pytest.raises(InputError, match=r"no metric 'luck'|list of metrics is empty"):
            refused()


def test_the_card_has_a_row_for_each_metric(pipeline, spec, tmp_path, measured):
    plan, out = pipeline.plan(spec, PLAN), tmp_path / "out"
    pipeline.export(spec.model, plan, out, evaluation=ALONE)
    where = "builtin test text, first 96 tokens, window 32, no beginning-of-text token"
    assert f"| Perplexity, {where} |" in (out / "README.md").read_text()
    assert "divergence" not in (out / "README.md").read_text().lower()
    pipeline.export(spec.model, plan, out, evaluation=BOTH)
    rows = (out / "README.md").read_text().splitlines()
    dense, pruned = (pipeline.evaluate(spec.model, BOTH, which) for which in (None, plan))
    before, after = dense["perplexity"], pruned["perplexity"]
    assert f"| Perplexity, {where} | {before:.2f} | {after:.2f} |" in rows
    assert f"| KL divergence, nats a token, {where} | 0.0000 | {pruned[NAME]:.4f} |" in rows
    assert len(measured) == 2


def test_a_sweep_measures_every_metric_and_nothing_twice(pipeline, spec, sweep, measured):
    alone = list(run_sweep(pipeline, replace(sweep, texts=(ALONE,))))
    before = files(pipeline.store, POINTS) | files(pipeline.store, EVALUATIONS)
    points = list(run_sweep(pipeline, sweep))
    assert len(measured) == len(points) == 5
    assert [point.perplexity for point in points] == [point.perplexity for point in alone]
    assert points[0].measured[NAME] == {"builtin": 0.0}
    assert all(point.more[NAME]["builtin"] > 0 for point in points[1:])
    assert (
        before.items()
        <= (files(pipeline.store, POINTS) | files(pipeline.store, EVALUATIONS)).items()
    )
    with counted_passes() as passes:
        assert list(run_sweep(Pipeline(pipeline.store), sweep)) == points
        assert list(run_sweep(Pipeline(pipeline.store), replace(sweep, texts=(ALONE,)))) == alone
    assert passes == []


def test_tables_charts_and_report_of_a_sweep_show_every_metric(pipeline, sweep, measured):
    points = list(run_sweep(pipeline, sweep))
    frame = sweep_frame(points)
    columns = frame.columns.tolist()
    assert columns[-3:] == ["perplexity_builtin", f"{NAME}_builtin", "error"]
    assert [(one.name, text) for one, text in measured_in(frame)] == [
        ("perplexity", "builtin"),
        (NAME, "builtin"),
    ]
    table = readable(frame, sweep)
    assert table["KL divergence, nats a token, builtin"][0] == "0.0000"
    assert table["Perplexity, builtin"].str.fullmatch(r"[\d,]+\.\d\d").all()
    assert opening(sweep).startswith("Perplexity and KL divergence of ")
    shown = dict(sections(sweep, points))
    assert list(shown)[:2] == ["Perplexity on builtin", "KL divergence on builtin"]
    figure = shown["KL divergence on builtin"][0]
    assert figure.layout.yaxis.title.text.startswith("KL divergence, nats a token")
    values = {trace.name: list(trace.y) for trace in figure.data}
    assert values["Magnitude"] == [point.more[NAME]["builtin"] for point in points[1:3]]
    assert "dense: 0.0000" in values


def test_a_metric_alone_may_be_swept(pipeline, sweep, measured):
    text = replace(ALONE, metrics=(NAME,))
    points = list(run_sweep(pipeline, replace(sweep, texts=(text,), criteria=("magnitude",))))
    assert not any(point.perplexity or point.error for point in points)
    assert "perplexity_builtin" not in sweep_frame(points)
    assert not any(math.isnan(value) for value in sweep_frame(points)[f"{NAME}_builtin"])


def test_texts_that_differ_in_their_metrics_alone_are_one(measured):
    other = replace(ALONE, metrics=(NAME,))
    assert text_names((ALONE, other)) == {"builtin": BOTH}
    assert len(figures_of(SweepSpec(texts=(ALONE, other)))) == 2
