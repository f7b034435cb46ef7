"""What the start page shows before a fresh machine has scores of its own."""

import threading

import numpy
import pytest

from bipcore.pruning.comparison import ranks
from bipcore.specs import CalibrationSpec, ModelSpec, ScoreSpec
from tests.helpers.apptest import errors, metric, read, start
from ui.jobs import worker
from ui.sample import sample_scores

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
