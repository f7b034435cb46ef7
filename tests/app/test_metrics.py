"""A choice of metrics on the pages, where there is more than one."""

import pytest

from bipcore.evaluation.metrics import METRICS
from tests.helpers.apptest import button, charts, errors, open_page, settle
from tests.helpers.folders import model_folder
from tests.helpers.metrics import NAME, watch_divergence

PAGES = {"pages/recover.py": "states-metrics", "pages/sweep.py": "set-sweep-metrics"}


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model"))


@pytest.fixture
def measured(monkeypatch) -> list[float]:
    return watch_divergence(monkeypatch)


def opened(page: str, model: str):
    return open_page(page, model=model, seq_len="16", sparsity="0.5")


@pytest.mark.parametrize("page", PAGES)
def test_with_one_metric_there_is_nothing_to_choose(monkeypatch, model, page):
    for name in list(METRICS)[1:]:
        monkeypatch.delitem(METRICS, name)
    app = opened(page, model)
    assert PAGES[page] not in [widget.key for widget in app.multiselect]


def test_the_states_of_a_model_are_compared_by_every_metric(model, measured):
    app = opened("pages/recover.py", model)
    app.multiselect(key="states-metrics").set_value(["perplexity", NAME])
    app.number_input(key="states-tokens").set_value(256)
    button(app, "Measure").click().run()
    settle(app)
    assert errors(app) == []
    table = app.dataframe[0].value
    assert table.columns.tolist() == ["Text", "Window", "Tokens", "Metric", "Dense", "Pruned"]
    assert table["Metric"].tolist() == ["Perplexity", "KL divergence, nats a token"]
    assert (table["Dense"][1], table["Pruned"][1]) == ("0.0000", f"{measured[1]:.4f}")
    captions = [caption.value for caption in app.caption]
    assert any(caption.startswith("The mean over the text's tokens of KL") for caption in captions)
    assert any(caption.startswith("exp of the mean negative") for caption in captions)


def test_a_sweep_is_drawn_by_every_metric(model, measured):
    app = opened("pages/sweep.py", model)
    app.multiselect(key="set-sweep-criteria").set_value(["magnitude"])
    app.multiselect(key="set-sweep-metrics").set_value(["perplexity", NAME])
    app.number_input(key="set-sweep-window").set_value(16)
    app.number_input(key="set-sweep-tokens").set_value(64)
    app.text_input(key="set-sweep-percents").set_value("50")
    app.run()
    app.button(key="sweep-start").click().run()
    settle(app)
    assert errors(app) == []
    assert charts(app) == 3
    assert app.dataframe[1].value[f"{NAME}_builtin"].tolist() == measured
    assert "KL divergence, nats a token, builtin" in app.dataframe[0].value


def test_a_sweep_of_no_metric_cannot_be_started(model, measured):
    app = opened("pages/sweep.py", model)
    app.multiselect(key="set-sweep-metrics").set_value([])
    app.run()
    assert "list of metrics is empty" in errors(app)[0]
    assert app.button(key="sweep-start").disabled


def test_the_plan_page_measures_every_metric(model, measured):
    app = opened("pages/plan.py", model)
    button(app, "Measure the perplexity, KL divergence and agreement").click().run()
    settle(app)
    assert errors(app) == []
    shown = {metric.label: metric.value for metric in app.metric}
    assert shown["KL divergence, nats a token, dense"] == "0.0000"
    assert float(shown["KL divergence, nats a token, this plan"]) > 0
    assert "Perplexity, this plan" in shown


def test_the_card_of_an_export_has_every_metric(model, measured, tmp_path):
    app = opened("pages/export.py", model)
    assert app.checkbox(key="measure").label.startswith(
        "Measure the perplexity, KL divergence and agreement"
    )
    folder = next(one for one in app.text_input if one.label.startswith("Folder"))
    folder.set_value(str(tmp_path / "out"))
    app.button(key="export").click().run()
    settle(app)
    assert errors(app) == []
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Perplexity, builtin test text" in card
    assert "| KL divergence, nats a token, builtin test text" in card
