"""The page What changed: nothing is compared before its button, then the text and where."""

import pytest

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
