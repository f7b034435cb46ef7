"""The page Paper, on a tiny model."""

import threading
import time

import pytest

from bipcore.pipeline.pipeline import Pipeline
from bipcore.studies.reproduction.run import run_reproduction
from bipcore.studies.reproduction.spec import load_reproduction, names
from tests.helpers.apptest import button, charts, errors, read, settle, start
from tests.helpers.folders import model_folder
from tests.helpers.papers import quick_tasks, texts_folder, tiny_spec
from ui.jobs import worker
from ui.studies import last_studies

PAGE = "pages/paper.py"
START = "paper-start"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Short texts, quick tasks and a run store of its own."""
    monkeypatch.setenv("BIPCORE_DATA", str(texts_folder(tmp_path / "texts")))
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "store"))
    monkeypatch.setattr(Pipeline, "zero_shot", quick_tasks)
    monkeypatch.setattr("ui.jobs._worker", None)
    yield
    last_studies().clear()


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model"))


def opened(model: str, name: str = "table1", page: str = PAGE):
    app = start(page, model=model)
    return chosen(app, name) if page == PAGE else app


def chosen(app, name: str):
    app.selectbox(key="set-paper-name").set_value(name).run()
    assert not app.exception, app.exception
    return app


def started(app, limit: int = 2):
    app.number_input(key="set-paper-limit").set_value(limit).run()
    app.button(key=START).click().run()
    return app


def notes(app) -> str:
    boxes = (*app.info, *app.warning, *app.success, *app.caption, *app.markdown)
    return read(" ".join(box.value for box in boxes))


def comparison(app):
    """The table with published and measured figures."""
    return next(d.value for d in app.dataframe if "Row" in d.value and "" in d.value)


def test_the_page_starts_nothing_and_says_what_to_do(model):
    app = start(PAGE, model=model)
    assert not app.exception
    assert errors(app) == []
    assert not worker().active()
    assert "Nothing of this has been measured on this machine yet" in notes(app)
    assert app.dataframe[0].value["method"].tolist()[0] == "dense"
    assert charts(app) == 1
    assert "Roughly" in notes(app)
    assert "the first 8 rows of each of 7 tasks" in notes(app)


@pytest.mark.parametrize("name", names())
def test_every_table_and_figure_can_be_chosen(model, name):
    app = opened(model, name)
    assert errors(app) == []
    assert load_reproduction(name).shows in [one.value for one in app.markdown]
    assert app.code[0].value.startswith(f"python -m bipcore reproduce {name} --model {model}")
    tables = len([d for d in app.dataframe if "model" in d.value])
    assert tables == (1 if name.startswith("table") else 0)
    assert charts(app) == (1 if name.startswith("table") else 0)


def test_the_protocols_and_what_may_be_compared_are_explained(model):
    app = opened(model)
    assert "12.62 and 22.14 with windows of 128 tokens" in notes(app)
    said = next(d.value for d in app.dataframe if "May be compared" in d.value)
    assert any("LLM-Pruner paper" in text for text in said["May be compared"])


def test_the_command_says_what_the_form_says(model):
    app = opened(model)
    app.number_input(key="set-paper-limit").set_value(5)
    app.checkbox(key="set-paper-tasks").set_value(False)
    app.selectbox(key="set-paper-calibration").set_value("builtin").run()
    expected = f"reproduce table1 --model {model} --limit 5 --calibration builtin --no-tasks"
    assert app.code[0].value == f"python -m bipcore {expected}"
    app.number_input(key="set-paper-limit").set_value(0).run()
    assert "--limit" not in app.code[0].value


def test_start_measures_and_shows_the_rows_beside_the_published_ones(model):
    app = settle(started(opened(model, "table5")))
    assert errors(app) == []
    table = comparison(app)
    assert table[""].tolist() == ["published", "measured"] * 3
    assert "Measured: 3 rows." in notes(app)
    assert "It is not the benchmark" in notes(app)
    assert "2 sentences of 128 tokens" in notes(app)
    assert charts(app) == 1


def test_measured_tasks_say_their_sample_sizes(model):
    spec = tiny_spec("table1", model, tasks=True, tuned=False, methods=("wanda",), limit=2)
    list(run_reproduction(Pipeline(), spec))
    app = opened(model)
    assert "HellaSwag 2 of 1,000 (acc_norm)" in notes(app)
    assert "limited to 2, calibrated on c4" in notes(app)
    table = comparison(app).set_index("Row")
    assert "magnitude, 20 %" in table.index
    assert "difference" not in table[""].tolist()
    app.segmented_control(key="paper-chart-table1").set_value("wikitext2@128").run()
    assert charts(app) == 1


def test_a_figure_gets_its_charts_once_it_is_measured(model):
    app = settle(started(opened(model, "figure3")))
    assert errors(app) == []
    assert charts(app) == 1
    assert "without printed numbers" in notes(app)
    assert len(comparison(app)) == 4


def test_a_reload_finds_what_was_measured_and_an_unfinished_run_too(model):
    spec = tiny_spec("table4", model)
    running = run_reproduction(Pipeline(), spec)
    next(running)
    running.close()
    app = opened(model, "table4")
    assert "1 of 3 rows" in notes(app)
    assert not worker().active()
    assert comparison(app)[""].tolist() == ["published", "measured", "published", "published"]


def test_of_several_runs_that_of_the_sidebars_model_comes_first(model, tmp_path):
    other = str(model_folder(tmp_path / "other", seed=1))
    for name in (model, other):
        list(run_reproduction(Pipeline(), tiny_spec("table5", name)))
    for name in (model, other):
        app = opened(name, "table5")
        choice = app.selectbox(key="paper-run-table5")
        assert choice.value.startswith(name)
        assert len(choice.options) == 2


@pytest.fixture
def paused(monkeypatch):
    """Runs stop after their first row until the event is set."""
    goes_on = threading.Event()

    def slowly(pipeline, spec):
        for index, row in enumerate(run_reproduction(pipeline, spec)):
            while index == 1 and not goes_on.wait(0.02):
                pipeline.progress(0.5, "waiting")
            yield row

    monkeypatch.setattr("ui.paper.run_reproduction", slowly)
    yield goes_on
    goes_on.set()


def wait_for_a_row() -> None:
    (job,) = worker().active()
    while not job.partial:
        assert job.active
        time.sleep(0.01)


def test_rows_grow_and_survive_a_change_of_page(model, paused):
    app = settle(opened(model, page="app.py"))
    app.switch_page(PAGE).run()
    started(chosen(app, "table5"))
    wait_for_a_row()
    app.run()
    assert comparison(app)[""].tolist().count("measured") in (1, 2)
    assert button(app, "Cancel")
    app.switch_page("pages/sweep.py").run()
    app.switch_page(PAGE).run()
    assert app.selectbox(key="set-paper-name").value == "table5"
    assert app.number_input(key="set-paper-limit").value == 2
    assert button(app, "Cancel")
    paused.set()
    assert comparison(settle(app))[""].tolist().count("measured") == 3


def test_a_cancelled_run_keeps_its_rows_and_start_goes_on(model, paused):
    app = started(opened(model, "table5"))
    wait_for_a_row()
    button(app.run(), "Cancel").click().run()
    settle(app)
    assert "Cancelled; the 1 rows that were done are kept" in notes(app)
    paused.set()
    assert comparison(settle(started(app)))[""].tolist().count("measured") == 3


def test_rows_that_cannot_be_done_are_a_note(model, monkeypatch):
    def full(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("bipcore.criteria.llm_pruner.collect_gradients", full)
    app = settle(started(opened(model, "table4")))
    assert errors(app) == []
    assert "llm-pruner, 20 %: There is not enough memory" in notes(app)
    assert comparison(app)[""].tolist().count("measured") == 2


def test_a_text_that_is_not_there_is_an_error_box(model, monkeypatch):
    monkeypatch.delenv("BIPCORE_DATA")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    app = settle(started(opened(model, "table4")))
    assert "The text 'c4' was not found" in errors(app)[0]


def test_a_model_that_is_not_there_is_an_error_box_and_nothing_can_be_started():
    app = start(PAGE, model="/nowhere/model")
    assert not app.exception
    assert "/nowhere/model does not exist" in errors(app)[0]
    assert app.button(key=START).disabled
