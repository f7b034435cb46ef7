"""What the start page shows before a fresh machine has scores of its own."""

import json
import subprocess
import sys
import threading
from importlib import import_module

import numpy
import pytest
from streamlit.testing.v1 import AppTest

from bipcore.pipeline.plans import plan_of
from bipcore.pruning.comparison import ranks
from bipcore.specs import CalibrationSpec, ModelSpec, ScoreSpec
from bipcore.views.scores import channel_distributions
from tests.helpers.apptest import ROOT, errors, metric, read, start
from ui.first_look import FIGURE
from ui.jobs import worker
from ui.sample import sample_scores
from ui.settings import Settings

DEFAULTS = {"samples": "32", "seq_len": "256"}


@pytest.fixture
def busy():
    """Within it the worker is at something else, so that nothing is scored."""
    done = threading.Event()
    worker().ask("busy", "Waiting", lambda pipeline, job: done.wait(60))
    yield
    for job in worker().active():
        job.cancel()
    done.set()
    worker().forget("busy")


def shown(app) -> bool:
    return any("Meanwhile a sample" in read(box.value) for box in app.info)


@pytest.mark.usefixtures("busy")
def test_until_the_first_scores_are_there_it_shows_a_sample(cache):
    app = start("app.py", **DEFAULTS)
    assert shown(app)
    assert errors(app) == []
    assert metric(app, "Removed, of the blocks") == "20.0%"
    assert len(app.get("plotly_chart")) == 1


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("other", [{"criterion": "wanda"}, {"samples": "4"}])
def test_of_other_settings_there_is_no_sample(cache, other):
    assert not shown(start("app.py", **(DEFAULTS | other)))


def test_the_sample_is_what_the_demo_model_has(demo_pipeline):
    """On a smaller calibration set of the same text its channels have much the same order."""
    sample = sample_scores()
    spec = ScoreSpec(ModelSpec(device="cpu"), CalibrationSpec(samples=8, seq_len=128))
    scores = demo_pipeline.scores(spec)
    assert (sample.criterion, sample.shape) == (scores.criterion, scores.shape)
    for own, other in zip(sample.blocks, scores.blocks, strict=True):
        correlation = numpy.corrcoef(ranks(own.ffn.numpy()), ranks(other.ffn.numpy()))[0, 1]
        assert correlation > 0.8


def first_figure() -> str:
    """What `ui/sample_scores/figure.json` has to hold."""
    settings, scores = Settings(), sample_scores()
    plan = plan_of(scores, settings.score_spec, settings.plan_spec)
    return channel_distributions(scores, plan).to_json()


def test_the_figure_that_is_shown_first_is_the_samples():
    """Where it is not: `python -c "from tests.app.test_sample import first_figure as f; print(f())"
    > ui/sample_scores/figure.json`."""
    assert json.loads(FIGURE.read_text()) == json.loads(first_figure())


def page() -> None:
    import sys

    import streamlit as st

    from ui.first_look import first_look

    sys.modules.pop("ui.overview", None)
    with first_look():
        st.session_state["drawn"] = True
    st.write("loaded")


def test_what_is_shown_first_gives_way_to_the_page():
    before = import_module("ui.overview")
    try:
        app = AppTest.from_function(page).run()
    finally:
        sys.modules["ui.overview"] = before
    assert not app.exception
    assert app.session_state["drawn"]
    assert app.get("plotly_chart") == []
    assert app.markdown[0].value == "loaded"


def test_what_is_shown_first_needs_nothing_that_takes_long():
    code = "import ui.first_look as f, sys; print('torch' in sys.modules, f.FIGURE.is_file())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.split() == ["False", "True"]


def test_it_says_that_it_is_a_sample():
    app = AppTest.from_string("from ui.first_look import draw\ndraw()").run()
    assert not app.exception
    assert "meanwhile a sample" in app.info[0].value
    assert len(app.get("plotly_chart")) == 1
