"""The page What changed: nothing is compared before its button, then the text and where."""

import pytest

from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import CalibrationSpec, ModelSpec, PlanSpec, RecoverySpec, ScoreSpec
from tests.helpers.apptest import charts, open_page, settle
from tests.helpers.folders import model_folder


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model"))


def test_a_text_is_compared_when_the_button_is_pressed(model):
    app = open_page("pages/changes.py", model=model, sparsity="0.5")
    assert [box.value for box in app.info] == ["Press Compare: each model reads the text once."]
    app.text_area(key="set-changes-text").set_value("A <b>text</b> of one's own.")
    app.button(key="changes").click().run()
    settle(app)
    figures = {metric.label: metric.value for metric in app.metric}
    assert float(figures["Mean divergence"].removesuffix(" nats")) > 0
    assert figures["Tokens"] == str(len("A <b>text</b> of one's own."))
    (html,) = (one.body for one in app.get("html"))
    assert "&lt;" in html
    assert "<b>" not in html
    table = app.dataframe[-1].value
    assert table["Divergence, nats"].is_monotonic_decreasing
    assert not app.info


def test_the_models_are_compared_block_by_block_when_asked(model):
    app = open_page("pages/changes.py", model=model, sparsity="0.5")
    assert charts(app) == 0
    app.button(key="changes-depth").click().run()
    settle(app)
    assert charts(app) == 2


def test_no_text_is_an_error_box(model):
    app = open_page("pages/changes.py", model=model, sparsity="0.5")
    app.text_area(key="set-changes-text").set_value("  ")
    app.button(key="changes").click().run()
    settle(app)
    assert [box.value for box in app.error] == ["There is no text; write or paste one."]


def test_a_plan_that_removes_nothing_changes_nothing(model):
    app = open_page("pages/changes.py", model=model, sparsity="0.0")
    app.button(key="changes").click().run()
    settle(app)
    figures = {metric.label: metric.value for metric in app.metric}
    assert figures["Mean divergence"] == "0.000 nats"
    assert figures["Same likeliest token"] == "100%"


def test_a_text_that_is_cut_is_said_to_be(model):
    app = open_page("pages/changes.py", model=model, sparsity="0.5")
    app.text_area(key="set-changes-text").set_value("word " * 1000)
    app.button(key="changes").click().run()
    settle(app)
    said = "Only the first 2,048 tokens of the text are compared."
    assert said in [caption.value for caption in app.caption]
    app.text_area(key="set-changes-text").set_value("word")
    app.button(key="changes").click().run()
    settle(app)
    assert said not in [caption.value for caption in app.caption]


def choose(app, source: str, **more):
    app.selectbox(key="set-changes-source").set_value(source)
    for name, value in more.items():
        app.number_input(key=f"set-changes-{name}").set_value(value)
    app.button(key="changes").click().run()
    return settle(app)


@pytest.mark.parametrize("source", ["calibration", "builtin"])
def test_of_a_corpus_the_worst_passages_are_listed(model, source):
    app = choose(open_page("pages/changes.py", model=model, sparsity="0.5"), source, tokens=250)
    assert [box.value for box in app.error] == []
    figures = {metric.label: metric.value for metric in app.metric}
    assert figures["Tokens"] == "250"
    table = next(one.value for one in app.dataframe if "Passage" in one.value)
    assert table["Divergence, nats"].is_monotonic_decreasing
    assert sorted(table["From token"]) == [0, 64, 128, 192]
    assert len(app.get("html")) == 1


@pytest.mark.parametrize("source", ["dense", "pruned"])
def test_a_model_goes_on_with_the_text(model, source):
    app = open_page("pages/changes.py", model=model, sparsity="0.5")
    app.text_area(key="set-changes-text").set_value("The sky")
    choose(app, source)
    assert [box.value for box in app.error] == []
    figures = {metric.label: metric.value for metric in app.metric}
    assert int(figures["Tokens"]) > len("The sky") + 1


def test_the_recovered_model_is_shown_beside_the_pruned_one(model):
    spec = ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=64))
    pipeline, settings = Pipeline(), PlanSpec(sparsity=0.5)
    training = RecoverySpec(source="builtin", samples=4, seq_len=16, batch_size=2, validation=0)
    pipeline.recover(spec.model, pipeline.plan(spec, settings), training)
    app = open_page("pages/changes.py", model=model, sparsity="0.5")
    app.button(key="changes").click().run()
    settle(app)
    said = [metric.value for metric in app.metric if metric.label == "Against the original"]
    assert said == ["Pruned", "Recovered"]
    shown = app.get("html")[0].body
    app.segmented_control(key="changes-other").set_value("Pruned").run()
    assert app.get("html")[0].body != shown
