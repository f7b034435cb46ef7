"""The page Sweep, on a tiny model."""

import threading
import time

import pytest

from bipcore.studies.sweep import run_sweep
from tests.helpers.apptest import button, charts, errors, read, settle, start
from tests.helpers.folders import model_folder
from ui.forms import last_forms
from ui.jobs import worker
from ui.studies import last_studies

PAGE = "pages/sweep.py"
START = "sweep-start"


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model"))


def opened(model: str, page: str = PAGE):
    return start(page, model=model, seq_len="16")


def filled(app, **texts):
    """The form with a short test text and two sparsities, and with these fields by key."""
    app.number_input(key="set-sweep-window").set_value(16)
    app.number_input(key="set-sweep-tokens").set_value(64)
    for name, value in {"percents": "20, 50", **texts}.items():
        app.text_input(key=f"set-sweep-{name}").set_value(value)
    return app.run()


def started(app):
    app.button(key=START).click().run()
    return settle(app)


def notes(app) -> str:
    return read(" ".join(box.value for box in (*app.info, *app.warning, *app.caption)))


def all_points(app):
    return app.dataframe[1].value


def test_before_anything_is_measured_the_page_says_what_to_do(model):
    app = opened(model)
    assert not app.exception
    assert "Nothing has been measured yet" in notes(app)
    assert "17 points, the dense model among them" in notes(app)
    assert charts(app) == 0
    assert not worker().active()


def test_start_measures_and_shows_charts_and_all_points(model):
    app = started(filled(opened(model)))
    assert errors(app) == []
    assert charts(app) == 2
    points = all_points(app)
    assert points["label"].tolist().count("llm-bip") == 2
    assert len(points) == 9
    assert points["perplexity_builtin"].notna().all()
    assert "Perplexity of" in notes(app)
    assert {b.label for b in app.get("download_button")} >= {"CSV", "HTML"}


def test_seeds_sizes_and_presets_give_more_points_and_a_chart_of_sizes(model):
    app = opened(model)
    app.multiselect(key="set-sweep-criteria").set_value(["llm-bip", "magnitude"])
    app.multiselect(key="set-sweep-presets").set_value(["recommended"])
    filled(app, percents="20", seeds="0,1", sizes="2,4")
    assert "10 points" in notes(app)
    started(app)
    assert charts(app) == 3
    means = app.dataframe[0].value
    assert means["Samples"].tolist() == ["-", "2", "4", "-", "2", "4"]
    assert len(all_points(app)) == 10


@pytest.mark.parametrize(
    ("texts", "said"),
    [
        ({"percents": "20, x"}, "'x' is not a number"),
        ({"percents": ""}, "list of sparsities is empty"),
        ({"percents": "100"}, "below 1, not 1.0"),
        ({"seeds": "-1"}, "not -1"),
        ({"sizes": "0"}, "at least 1, not 0"),
    ],
)
def test_a_wrong_list_is_an_error_box_and_nothing_can_be_started(model, texts, said):
    app = filled(opened(model), **texts)
    assert len(errors(app)) == 1
    assert said in errors(app)[0]
    assert app.button(key=START).disabled
    filled(app, seeds="0", sizes="4")
    assert errors(app) == []
    assert not app.button(key=START).disabled


def test_what_fails_as_a_whole_is_an_error_box_and_can_be_mended(model):
    app = filled(opened(model))
    app.number_input(key="set-sweep-window").set_value(4096)
    started(app)
    assert "128 positions" in errors(app)[0]
    started(filled(app))
    assert errors(app) == []
    assert charts(app) == 2


def test_points_that_cannot_be_are_a_note(model):
    app = started(filled(opened(model), percents="50, 98"))
    assert errors(app) == []
    assert "Could not be done" in notes(app)
    assert "magnitude at 98%" in notes(app)
    assert charts(app) == 2


@pytest.fixture
def paused(monkeypatch):
    """Sweeps stop after their third point until the event is set."""
    goes_on = threading.Event()

    def slowly(pipeline, spec):
        for index, point in enumerate(run_sweep(pipeline, spec)):
            while index == 3 and not goes_on.wait(0.02):
                pipeline.progress(0.5, "waiting")
            yield point

    monkeypatch.setattr("ui.sweep.run_sweep", slowly)
    yield goes_on
    goes_on.set()


def wait_for_points(count: int) -> None:
    (job,) = worker().active()
    while len(job.partial or ()) < count:
        assert job.active
        time.sleep(0.01)


def test_charts_grow_while_points_come_in(model, paused):
    app = filled(opened(model))
    app.button(key=START).click().run()
    wait_for_points(3)
    app.run()
    assert charts(app) == 2
    assert len(all_points(app)) == 3
    assert button(app, "Cancel")
    paused.set()
    assert len(all_points(settle(app))) == 9


def test_a_cancelled_sweep_keeps_its_points_and_start_goes_on(model, paused):
    app = filled(opened(model))
    app.button(key=START).click().run()
    wait_for_points(3)
    button(app.run(), "Cancel").click().run()
    settle(app)
    assert "Cancelled; the 3 points below are kept" in notes(app)
    assert len(all_points(app)) == 3
    paused.set()
    assert len(all_points(started(app))) == 9


def test_the_form_and_the_results_are_found_after_a_change_of_page(model):
    app = opened(model, "app.py")
    app.switch_page(PAGE).run()
    started(filled(app, percents="30"))
    app.switch_page("pages/compare.py").run()
    app.switch_page(PAGE).run()
    assert app.text_input(key="set-sweep-percents").value == "30"
    assert charts(app) == 2


def test_a_reload_finds_the_last_sweep_of_the_model_and_its_form(model, tmp_path):
    started(filled(opened(model), percents="40"))
    app = opened(model)
    assert app.text_input(key="set-sweep-percents").value == "40"
    assert charts(app) == 2
    other = opened(str(model_folder(tmp_path / "other", seed=1)))
    assert "Nothing has been measured yet" in notes(other)


def test_other_settings_leave_the_results_and_say_so(model):
    app = started(filled(opened(model)))
    filled(app, percents="10")
    assert "the sweep that was started last" in notes(app)
    assert charts(app) == 2


def test_the_sparsity_of_the_sidebar_makes_no_other_sweep(model):
    app = started(filled(opened(model)))
    app.slider(key="set-percent").set_value(70).run()
    assert "the sweep that was started last" not in notes(app)
    assert charts(app) == 2


@pytest.fixture(autouse=True)
def forgotten():
    yield
    last_forms().clear()
    last_studies().clear()
