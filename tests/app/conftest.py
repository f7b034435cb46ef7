"""What the tests of the pages share."""

import pickle

import pytest

from ui.engines import InThread
from ui.jobs import Job


@pytest.fixture(autouse=True)
def _sent(monkeypatch):
    """What a page asks for and is given goes there and back as it would between processes, though
    the work is done in this one."""
    run = InThread.run

    def through_a_pipe(place, work, job):
        if _of_a_page(work):
            return _copied(run(place, _copied(work), job))
        return run(place, work, job)

    monkeypatch.setattr(InThread, "run", through_a_pipe)
    monkeypatch.setattr(Job, "__setattr__", _set)


def _of_a_page(work) -> bool:
    """Whether it is a work of the pages, in which no test has replaced anything."""
    if replaced := getattr(work, "results", None):  # a `OneByOne`
        return not replaced.__module__.startswith("tests.")
    return getattr(getattr(work, "func", None), "__module__", "") == "ui.work"


def _set(job: Job, name: str, value) -> None:
    if name == "partial" and value is not None and _of_a_page(job._work):
        value = _copied(value)
    object.__setattr__(job, name, value)


def _copied(value):
    return pickle.loads(pickle.dumps(value))
