"""The page Zero-shot, on a tiny model with hand-made rows."""

import threading
import time

import pytest

from bipcore.pipeline.pipeline import Pipeline, measure_states
from bipcore.specs import (
    CalibrationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
    ZeroShotSpec,
)
from tests.helpers.apptest import button, charts, errors, open_page, read, settle, start
from tests.helpers.folders import model_folder
from tests.helpers.tasks import ROWS, write_rows
from tests.helpers.tiny import one_thread  # noqa: F401
from ui.forms import last_forms
from ui.jobs import worker
from ui.studies import last_studies

PAGE = "pages/zero_shot.py"
START = "zero-shot-start"
FEW = ["piqa", "boolq"]


@pytest.fixture
def data(tmp_path, monkeypatch):
    folder = write_rows(tmp_path / "data")
    monkeypatch.setenv("BIPCORE_DATA", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def model(tmp_path, data) -> str:
    return str(model_folder(tmp_path / "model"))


@pytest.fixture(autouse=True)
def forgotten():
    yield
    last_forms().clear()
    last_studies().clear()


def opened(model: str, page: str = PAGE, **address):
    return open_page(page, model=model, seq_len="16", sparsity="0.5", **address)


def filled(app, tasks=FEW, **numbers):
    app.multiselect(key="set-zero-shot-tasks").set_value(list(tasks))
    for name, value in numbers.items():
        app.number_input(key=f"set-zero-shot-{name}").set_value(value)
    return app.run()


def started(app):
    app.button(key=START).click().run()
    return settle(app)


def notes(app) -> str:
    return read(
        " ".join(box.value for box in (*app.info, *app.warning, *app.caption, *app.markdown))
    )


def test_it_does_not_start_by_itself_and_says_how_much_it_would_be(model):
    app = opened(model)
    assert errors(app) == []
    assert "Nothing has been measured yet" in notes(app)
    said = notes(app)
    rows = sum(len(of_task) for of_task in ROWS.values())
    assert f"{rows} rows with about " in said
    assert "on 2 models, the dense one among them" in said
    assert "The whole tasks have 20,465 rows: this is a sample, not the benchmark." in said
    assert charts(app) == 0
    assert not worker().active()


def test_start_measures_dense_and_pruned_and_shows_table_chart_and_paper(model):
    app = started(filled(opened(model), rows=3))
    assert errors(app) == []
    assert charts(app) == 1
    table = app.dataframe[0].value
    assert table["Task"].tolist() == ["piqa", "boolq", "mean of 2"]
    assert table["Rows"].tolist()[:2] == ["3 of 1,838", "3 of 3,270"]
    for column in ("Dense acc", "Dense acc_norm", "Pruned acc", "Pruned − dense"):
        assert column in table
    assert " ± " in table["Pruned acc"][0]
    assert "piqa 3 of 1,838 rows" in notes(app)
    assert "not the benchmark" in notes(app)
    assert {b.label for b in app.get("download_button")} >= {"CSV", "HTML"}


def test_the_figures_are_those_of_the_pipeline(model):
    app = started(filled(opened(model), ["piqa"], rows=0))
    score = ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=16))
    pipeline = Pipeline()
    (result,) = pipeline.zero_shot(
        ModelSpec(model), ZeroShotSpec(("piqa",)), pipeline.plan(score, PlanSpec(sparsity=0.5))
    )
    shown = app.dataframe[0].value["Pruned acc"][0]
    assert shown.startswith(f"{100 * result.metrics['acc']:.1f} ± ")


def test_none_of_the_paper_s_rows_may_be_compared_with_another_model(model):
    app = started(filled(opened(model)))
    assert "None of these" in notes(app)
    published = app.dataframe[2].value
    assert set(published["row"].str.split(",").str[0]) == {"LLaMA-7B"}
    assert all("another model" in text for text in published["compare"])
    assert all(
        "not all rows" in text for text in published["compare"] if "was measured" not in text
    )
    app.selectbox(key="zero-shot-table-1").set_value(3).run()
    assert set(app.dataframe[2].value["row"].str.split(",").str[0]) == {"LLaMA-13B"}


def test_at_sparsity_zero_only_the_dense_model_is_measured(model):
    app = open_page(PAGE, model=model, seq_len="16", sparsity="0.0")
    assert "on the dense model" in notes(app)
    started(filled(app))
    assert not any(name.startswith("Pruned") for name in app.dataframe[0].value)


def test_a_stored_recovery_is_measured_too(model):
    pipeline = Pipeline()
    score = ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=16))
    plan = pipeline.plan(score, PlanSpec(sparsity=0.5))
    pipeline.recover(
        ModelSpec(model), plan, RecoverySpec("builtin", 4, 16, batch_size=2, validation=2)
    )
    app = opened(model)
    assert "on 3 models" in notes(app)
    started(filled(app, ["arc_easy"]))
    assert errors(app) == []
    assert "Recovered − dense" in app.dataframe[0].value


def test_no_task_is_an_error_box_and_nothing_can_be_started(model):
    app = filled(opened(model), [])
    assert "at least one of boolq" in errors(app)[0]
    assert app.button(key=START).disabled
    filled(app)
    assert errors(app) == []


def test_rows_that_are_not_there_are_said_before_and_after(model, data):
    (data / "tasks" / "piqa.jsonl").unlink()
    app = filled(opened(model))
    assert "From the hub: piqa." in notes(app)
    started(app)
    assert "has no tasks/piqa.jsonl, and the hub gave nothing" in errors(app)[0]
    write_rows(data)
    started(app)
    assert errors(app) == []
    assert charts(app) == 1


def test_a_name_that_is_no_task_is_an_error_box(model):
    app = started(filled(opened(model), ["piqa", "no-such-task-4f1d"]))
    assert "There is no task 'no-such-task-4f1d'" in errors(app)[0]


@pytest.fixture
def paused(monkeypatch):
    """Runs stop after their second result until the event is set."""
    goes_on = threading.Event()

    def slowly(pipeline, *rest):
        for index, pair in enumerate(measure_states(pipeline, *rest)):
            while index == 2 and not goes_on.wait(0.02):
                pipeline.progress(0.5, "waiting")
            yield pair

    monkeypatch.setattr("ui.zero_shot.measure_states", slowly)
    yield goes_on
    goes_on.set()


def wait_for_results(count: int) -> None:
    (job,) = worker().active()
    while len(job.partial or ()) < count:
        assert job.active
        time.sleep(0.01)


def test_the_table_grows_while_results_come_in(model, paused):
    app = filled(opened(model))
    app.button(key=START).click().run()
    wait_for_results(2)
    app.run()
    assert charts(app) == 1
    assert app.dataframe[0].value["Task"].tolist() == ["piqa"]
    assert button(app, "Cancel")
    paused.set()
    assert len(settle(app).dataframe[0].value) == 3


def test_a_cancelled_run_keeps_its_results_and_start_goes_on(model, paused):
    app = filled(opened(model))
    app.button(key=START).click().run()
    wait_for_results(2)
    button(app.run(), "Cancel").click().run()
    settle(app)
    assert "Cancelled; the 2 results below are kept" in notes(app)
    assert len(app.dataframe[0].value) == 1
    paused.set()
    assert len(started(app).dataframe[0].value) == 3


def test_form_and_results_are_found_after_a_change_of_page(model):
    app = opened(model, "app.py")
    app.switch_page(PAGE).run()
    settle(app)
    started(filled(app, ["piqa"], rows=2))
    app.switch_page("pages/compare.py").run()
    settle(app)
    app.switch_page(PAGE).run()
    assert app.number_input(key="set-zero-shot-rows").value == 2
    assert app.multiselect(key="set-zero-shot-tasks").value == ["piqa"]
    assert charts(app) == 1


def test_a_reload_finds_the_last_run_of_the_model(model, tmp_path):
    started(filled(opened(model), rows=2))
    app = start(PAGE, model=model, seq_len="16", sparsity="0.5")
    assert app.number_input(key="set-zero-shot-rows").value == 2
    assert charts(app) == 1
    other = opened(str(model_folder(tmp_path / "other", seed=1)))
    assert "Nothing has been measured yet" in notes(other)


def test_another_plan_leaves_the_results_and_says_so(model):
    app = started(filled(opened(model), ["piqa"]))
    assert "Below is what was measured last" not in notes(app)
    app.slider(key="set-percent").set_value(30).run()
    settle(app)
    assert "Below is what was measured last" in notes(app)
    assert charts(app) == 1
