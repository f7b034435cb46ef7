"""The panel of jobs at the top of the sidebar."""

import threading

import pytest

from bipcore.errors import InputError
from tests.helpers.apptest import read, settle, start
from tests.helpers.folders import model_folder
from ui.jobs import CANCELLED, worker

PAGE = "pages/scores.py"


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model", "llama"))


@pytest.fixture
def running():
    """A job that goes on until it is stopped."""
    job = endless_job()
    yield job
    job.cancel()


def endless_job():
    begun = threading.Event()

    def work(pipeline, job):
        while True:
            job.report(0.4, "going on")
            begun.set()
            threading.Event().wait(0.01)

    worker().forget("endless")
    job = worker().submit("endless", "Counting to infinity", work)
    assert begun.wait(60)
    return job


def stop(app, key: str):
    (found,) = [button for button in app.sidebar.button if button.key == f"stop-{key}"]
    return found


def test_what_runs_and_what_waits_is_shown_and_can_be_stopped(running, model):
    app = start(PAGE, model=model)
    app.run()  # the scores that the page waits for are asked for after the sidebar is drawn
    (bar,) = app.sidebar.get("progress")
    assert read(bar.proto.text).startswith("Counting to infinity · ")
    assert any(read(c.value).startswith("Waits, 1 before it: Scoring") for c in app.caption)
    stop(app, "endless").click().run()
    settle(app)
    assert running.state == CANCELLED
    assert not app.sidebar.get("progress")
    ended = [read(caption.value) for caption in app.sidebar.caption]
    assert any(line.startswith("Counting to infinity: cancelled, ") for line in ended)
    assert any(": done, " in line and line.startswith("Scoring") for line in ended)


def test_what_waits_to_be_generated_is_in_the_panel_and_on_its_page(model, request):
    app = settle(start("pages/generate.py", model=model))
    job = endless_job()
    request.addfinalizer(job.cancel)
    app.button(key="generate").click().run()
    app.run()  # the panel was drawn before it was asked for
    assert not app.exception
    keys = [str(button.key) for button in app.button]
    assert sum(key.startswith("stop-generate-") for key in keys) == 1
    assert sum(key.startswith("cancel-generate-") for key in keys) == 1
    job.cancel()
    settle(app)
    assert len([c for c in app.caption if "prompt read in" in c.value]) == 2


def test_a_failure_is_told_with_its_sentence(model):
    def fail(pipeline, job):
        raise InputError("There is no such text.")

    worker().submit("fails", "Reading a text", fail)
    app = settle(start(PAGE, model=model))
    ended = [read(caption.value) for caption in app.sidebar.caption]
    assert any(line.startswith("Reading a text: failed: There is no such text.") for line in ended)
