"""The page Recover, and where its models turn up, on a tiny model."""

import re
import threading
import time

import pytest

from bipcore.errors import InputError
from bipcore.export.export import read_export
from bipcore.pipeline.pipeline import Pipeline
from bipcore.recovery.training import recover
from tests.helpers.apptest import button, charts, errors, field, metric, open_page, read, settle
from tests.helpers.folders import model_folder, tree
from ui.jobs import worker

PAGE = "pages/recover.py"


@pytest.fixture
def model(tmp_path, monkeypatch) -> str:
    monkeypatch.delenv("BIPCORE_DATA", raising=False)
    return str(model_folder(tmp_path / "model"))


def opened(model: str, page: str = PAGE, **address: str):
    return open_page(page, model=model, seq_len="16", sparsity="0.5", **address)


def filled(app, **numbers):
    """The form with a training that takes a moment, and with these fields."""
    small = {"samples": 12, "seq_len": 32, "batch_size": 4, "validation": 2, "validate_every": 2}
    for name, value in {**small, **numbers}.items():
        app.number_input(key=f"set-recovery-{name}").set_value(value)
    return app.run()


def started(app):
    app.button(key="recovery-start").click().run()
    return settle(app)


def notes(app) -> str:
    return read(" ".join(box.value for box in (*app.info, *app.warning, *app.caption)))


def test_nothing_starts_by_itself_and_the_page_says_what_to_do(model):
    app = opened(model)
    assert "has not been recovered yet" in notes(app)
    assert "32 optimiser steps over 32,768 tokens of builtin" in notes(app)
    assert charts(app) == 0
    assert not worker().active()
    assert Pipeline().recoveries(_spec(model)) == []


def _spec(model: str):
    from bipcore.specs import ModelSpec

    return ModelSpec(model)


def test_start_trains_and_shows_curves_figures_and_the_name(model):
    app = started(filled(opened(model)))
    assert errors(app) == []
    assert charts(app) == 3
    assert metric(app, "Tokens trained on") == "384"
    assert metric(app, "Step kept") == "3 of 3"
    (recovery,) = Pipeline().recoveries(_spec(model))
    looks = [step.validation for step in recovery.history if step.validation is not None]
    assert metric(app, "Held-out loss, nats") == f"{looks[-1]:.3f}"
    assert f"--recovery {recovery.name}" in notes(app)


def test_all_three_perplexities_stand_side_by_side(model):
    app = started(filled(opened(model)))
    app.multiselect(key="states-windows").set_value([128])
    app.number_input(key="states-tokens").set_value(256)
    button(app, "Measure").click().run()
    settle(app)
    assert errors(app) == []
    table = app.dataframe[0].value
    assert table.columns.tolist()[-4:] == ["Metric", "Dense", "Pruned", "Recovered"]
    assert table["Window"].tolist() == [128]
    assert table["Pruned"][0] != table["Recovered"][0]


def asked_for(app, tokens: int):
    app.multiselect(key="states-windows").set_value([128])
    app.number_input(key="states-tokens").set_value(tokens)
    button(app, "Measure").click().run()
    return settle(app)


def test_a_number_of_test_tokens_that_cannot_be_is_an_error_box(model):
    app = asked_for(opened(model), tokens=1)
    assert errors(app) == ["The number of test tokens is a whole number, at least 2, not 1."]
    assert errors(asked_for(app, tokens=256)) == []


def test_a_measurement_that_fails_says_why_and_is_not_started_again(model, monkeypatch):
    tries = []

    def fails(*arguments, **options):
        tries.append(arguments)
        raise InputError("The text is not there any more.")

    with monkeypatch.context() as patch:
        patch.setattr("bipcore.pipeline.measuring.Measurements.evaluate", fails)
        app = asked_for(opened(model), tokens=256)
        for _ in range(3):
            assert errors(settle(app)) == ["The text is not there any more."]
        assert len(tries) == 1
        asked_for(app, tokens=256)
        assert len(tries) == 2
    assert errors(asked_for(app, tokens=256)) == []


def test_windows_longer_than_the_positions_are_not_offered(model):
    app = opened(model)
    assert app.multiselect(key="states-windows").options == ["128"]


def test_a_size_fills_the_form_in(model):
    app = opened(model)
    button(app, "As the paper").click().run()
    assert app.number_input(key="set-recovery-samples").value == 20_000
    assert app.number_input(key="set-recovery-batch_size").value == 128
    assert app.selectbox(key="set-recovery-objective").value == "text"
    assert app.selectbox(key="set-recovery-train").value == "lora"
    assert "157 optimiser steps over 10,240,000 tokens of c4" in notes(app)


def test_what_cannot_be_trained_is_an_error_box_and_can_be_mended(model):
    app = started(filled(opened(model), samples=100_000))
    assert "ask for fewer or shorter samples" in errors(app)[0]
    app = started(filled(app))
    assert errors(app) == []
    assert charts(app) == 3


def test_wrong_settings_cannot_be_started(model):
    app = filled(opened(model), patience=1, validation=0)
    assert "have to be held out" in errors(app)[0]
    assert app.button(key="recovery-start").disabled
    filled(app, patience=0)
    assert errors(app) == []


@pytest.fixture
def paused(monkeypatch):
    """Training stops after its second step until the event is set."""
    goes_on = threading.Event()

    def slowly(*arguments, progress, watch, **options):
        def watched(history):
            watch(history)
            while len(history) == 3 and not goes_on.wait(0.02):
                progress(0.5, "waiting")

        return recover(*arguments, progress=progress, watch=watched, **options)

    monkeypatch.setattr("bipcore.pipeline.recoveries.recover", slowly)
    yield goes_on
    goes_on.set()


def wait_for_steps(count: int) -> None:
    (job,) = worker().active()
    while len(job.partial or ()) < count:
        assert job.active, job.error
        time.sleep(0.01)


def test_the_curves_grow_while_it_trains(model, paused):
    app = filled(opened(model))
    app.button(key="recovery-start").click().run()
    wait_for_steps(3)
    app.run()
    assert charts(app) == 3
    assert button(app, "Stop")
    other = opened_without_waiting(model)
    assert charts(other) == 3
    paused.set()
    assert metric(settle(app), "Step kept") == "3 of 3"


def opened_without_waiting(model: str):
    from tests.helpers.apptest import start

    return start(PAGE, model=model, seq_len="16", sparsity="0.5")


def test_a_stopped_training_goes_on(model, paused):
    app = filled(opened(model))
    app.button(key="recovery-start").click().run()
    wait_for_steps(3)
    button(app.run(), "Stop").click().run()
    settle(app)
    assert "What was trained is kept" in notes(app)
    paused.set()
    app = started(app)
    assert metric(app, "Step kept") == "3 of 3"


def test_what_was_recovered_before_stays_when_another_training_fails(model):
    app = started(filled(opened(model)))
    started(filled(app, samples=100_000))
    assert "ask for fewer or shorter samples" in errors(app)[0]
    assert metric(app, "Step kept") == "3 of 3"
    assert charts(app) == 3


def test_the_recovered_model_is_prompted_beside_the_others(model):
    started(filled(opened(model)))
    app = opened(model, "pages/generate.py")
    app.number_input(key="set-generate-tokens").set_value(4)
    app.button(key="generate").click().run()
    settle(app)
    assert errors(app) == []
    assert len([c for c in app.caption if "prompt read in" in c.value]) == 3
    assert any("Recovered" in text.value for text in app.markdown)
    choice = next(box for box in app.selectbox if box.label == "Recovered model")
    choice.set_value("").run()
    assert not worker().active()  # nothing is generated before its button
    app.button(key="generate").click().run()
    settle(app)
    assert len([c for c in app.caption if "prompt read in" in c.value]) == 2


def test_the_recovered_model_is_exported_with_its_adapter(model, tmp_path):
    started(filled(opened(model)))
    app = opened(model, "pages/export.py")
    app.checkbox(key="measure").set_value(False)
    folder = field(app, "Folder")
    assert folder.value.endswith("-recovered")
    folder.set_value(str(tmp_path / "out"))
    app.button(key="export").click().run()
    settle(app)
    assert errors(app) == []
    assert read_export(tmp_path / "out").tier == 1
    assert "adapter/adapter_model.safetensors" in tree(tmp_path / "out")


def test_at_sparsity_zero_there_is_nothing_to_recover(model):
    app = open_page(PAGE, model=model, seq_len="16", sparsity="0.0")
    assert "nothing to recover" in notes(app)


def test_the_form_survives_a_change_of_page(model):
    app = open_page("app.py", model=model, seq_len="16", sparsity="0.5")
    app.switch_page(PAGE).run()
    filled(app, rank=2)
    app.switch_page("pages/export.py").run()
    app.switch_page(PAGE).run()
    assert app.number_input(key="set-recovery-rank").value == 2


def test_what_a_training_takes_is_said_beside_its_button(model):
    app = settle(opened(model))
    (said,) = [one.value for one in app.main.caption if "optimiser steps" in one.value]
    assert re.search(r"Takes about \d+ MiB of memory at most \(.+\), roughly ", said)
    assert any("Takes about" in one.value for one in app.sidebar.caption)


def test_a_training_that_cannot_fit_cannot_be_started(model, monkeypatch):
    app = settle(opened(model))
    assert not button(app, "Start").disabled
    monkeypatch.setattr("bipcore.evaluation.estimating.free_on", lambda device: 2**20)
    settle(app)
    assert button(app, "Start").disabled
    assert any("This takes about" in error for error in errors(app))
