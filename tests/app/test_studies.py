"""Studies: jobs that grow, found again by what they compute or as the last of their group."""

import time

import pytest
from streamlit.testing.v1 import AppTest

from bipcore.errors import InputError
from ui.jobs import worker
from ui.studies import Study, last_studies, to_show
from ui.work import one_by_one


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """A worker of its own, and nothing started before."""
    monkeypatch.setattr("ui.jobs._worker", None)
    last_studies().clear()
    yield
    for job in worker().active():
        job.cancel()
    last_studies().clear()


def study(key: str, group: str | None = "group") -> Study:
    return Study(key, "Counting", group=group)


def ended(one: Study) -> Study:
    limit = time.monotonic() + 30
    while one.job.active:
        assert time.monotonic() < limit
        time.sleep(0.01)
    return one


def counted(one: Study, results=lambda pipeline: iter((1, 2))) -> Study:
    one.start(one_by_one(results))
    return ended(one)


def fails(pipeline):
    yield 1
    raise InputError("It is not to be.")


def endless(pipeline):
    yield 1
    while True:
        pipeline.progress(0.5, "going on")
        time.sleep(0.01)


def test_results_are_kept_one_by_one():
    job = counted(study("a")).job
    assert (job.state, job.partial, job.result) == ("done", (1, 2), (1, 2))


def test_one_that_failed_keeps_its_results_and_can_be_started_again():
    one = counted(study("a"), fails)
    assert (one.job.state, one.job.partial, one.job.error) == ("failed", (1,), "It is not to be.")
    assert counted(one).job.partial == (1, 2)


def test_the_forms_own_study_is_shown_where_it_was_started_else_the_last_of_its_group():
    assert to_show(study("a"), "group") is None
    first, second = counted(study("a")), counted(study("b"))
    counted(study("c", "other"))
    counted(study("d", None))
    assert to_show(study("a"), "group").key == first.key
    assert to_show(study("new"), "group") == second
    assert to_show(None, "group") == second
    assert to_show(None, "third") is None


def page(key: str, own: str) -> None:
    """What follows from the study ``key`` where that of the form is ``own``."""
    import streamlit as st

    from ui.studies import Study, follow

    said = {"nothing": "Nothing yet.", "other": "The last one.", "cancelled": "After {}."}
    st.session_state["results"] = follow(
        Study(key),
        Study(own) if own else None,
        stop="Halt",
        done=lambda found: st.success(f"Had {found}."),
        **said,
    )


def shown(key: str, own: str = "a") -> AppTest:
    app = AppTest.from_function(page, kwargs={"key": key, "own": own}).run()
    assert not app.exception, app.exception
    return app


def test_what_is_not_there_is_said():
    app = shown("a")
    assert [box.value for box in app.info] == ["Nothing yet."]
    assert app.session_state["results"] == ()


@pytest.mark.parametrize(
    ("own", "notes"), [("a", []), ("b", ["The last one."]), ("", ["The last one."])]
)
def test_one_that_is_not_the_forms_own_is_said_to_be_the_last(own, notes):
    counted(study("a"))
    app = shown("a", own)
    assert [box.value for box in app.info] == notes
    assert [box.value for box in app.success] == ["Had (1, 2)."]


def test_what_fails_says_why():
    counted(study("a"), fails)
    app = shown("a")
    assert [box.value for box in app.error] == ["It is not to be."]
    assert app.session_state["results"] == (1,)


def test_what_is_cancelled_says_how_far_it_came():
    one = study("a")
    one.start(one_by_one(endless))
    while not one.job.partial:
        time.sleep(0.01)
    app = shown("a")
    assert [button.label for button in app.button] == ["Halt"]
    app.button[0].click().run()
    ended(one)
    assert [box.value for box in shown("a").info] == ["After 1."]
