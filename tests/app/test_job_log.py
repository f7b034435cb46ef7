"""The list of jobs that outlives its server."""

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from bipcore.store.roots import MARK, is_store
from tests.helpers.apptest import button, open_page, read, settle, start
from tests.helpers.folders import model_folder
from ui import jobs
from ui.job_log import FILE, JobLog
from ui.jobs import worker

PLACE = ("pages/sweep.py", {"model": "tiny", "sweep.percents": "30"})


@pytest.fixture
def root(tmp_path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def gone(root) -> JobLog:
    """A server's list whose process has ended."""
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
                           capture_output=True, text=True, check=True)  # fmt: skip
    log = JobLog(root)
    log.server = f"{int(ended.stdout)}:1"
    return log


def titles(log: JobLog) -> list[str]:
    return [one.title for one in log.interrupted()]


def test_what_a_server_that_is_gone_left_was_interrupted(root, gone):
    for title in ("waits", "runs", "done", "failed", "cancelled"):
        number = gone.add(title, title, PLACE)
        if title != "waits":
            gone.say(number, {"runs": "running"}.get(title, title))
    found = JobLog(root).interrupted()
    assert [one.title for one in found] == ["runs", "waits"]
    assert found[0].place == PLACE
    assert is_store(root)


def test_the_jobs_of_servers_that_live_are_theirs(root):
    log = JobLog(root)
    log.say(log.add("a", "own", None), "running")
    other = JobLog(root)
    other.server = f"{os.getppid()}:{_started(os.getppid())}"
    other.add("b", "another's", None)
    assert titles(log) == titles(other) == []


def _started(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]


def test_a_number_that_came_back_is_not_the_same_process(root):
    log, before = JobLog(root), JobLog(root)
    before.server = f"{os.getpid()}:1"
    before.add("a", "of another", None)
    assert titles(log) == ["of another"]


def test_what_was_asked_for_again_or_dismissed_is_not_told(root, gone):
    for key in "ab":
        gone.add(key, key, None)
    log = JobLog(root)
    log.add("a", "a", None)
    assert titles(log) == ["b"]
    log.forget(log.interrupted()[0].number)
    assert titles(log) == []


def test_the_list_does_not_grow_for_ever(root):
    log = JobLog(root)
    for number in range(250):
        log.add(str(number), "", None)
    with sqlite3.connect(root / FILE) as file:
        assert file.execute("SELECT count(*) FROM jobs").fetchone() == (200,)


def test_a_file_that_is_none_of_ours_costs_nothing_but_the_list(root, gone, caplog):
    gone.add("a", "a", None)
    (root / FILE).write_bytes(b"no database " * 100)
    log = JobLog(root)
    assert log.add("b", "b", None) is None
    log.say(None, "done")
    log.say(1, "done")
    assert log.interrupted() == []
    assert "cannot be used" in caplog.text
    assert (root / FILE).read_bytes().startswith(b"no database ")


def test_without_a_store_nothing_is_made_to_look(root):
    assert JobLog(root).interrupted() == []
    assert not root.exists()


def test_a_folder_that_is_no_store_is_left_alone(root):
    root.mkdir()
    (root / "letter.txt").write_text("mine")
    assert JobLog(root).add("a", "a", None) is None
    assert sorted(path.name for path in root.iterdir()) == ["letter.txt"]


def test_a_new_server_tells_of_it_and_leads_there(tmp_path, monkeypatch, root, gone):
    monkeypatch.setenv("BIPCORE_CACHE", str(root))
    monkeypatch.setattr(jobs, "_worker", None)
    model = str(model_folder(tmp_path / "model"))
    gone.add("sweep-1", "Sweep of tiny", ("pages/sweep.py", {"model": model}))
    app = settle(start("app.py", model=model))
    sidebar = app.sidebar
    assert "A job was interrupted" in [box.label for box in sidebar.expander]
    dismiss = [one for one in sidebar.button if str(one.key).startswith("forget-")]
    dismiss[0].click().run()
    assert not [box for box in app.sidebar.expander if "interrupted" in box.label]
    assert worker().log.interrupted() == []


def test_jobs_of_the_pages_are_listed_with_how_they_ended(tmp_path, monkeypatch, root):
    monkeypatch.setenv("BIPCORE_CACHE", str(root))
    monkeypatch.setattr(jobs, "_worker", None)
    model = str(model_folder(tmp_path / "model"))
    open_page("pages/scores.py", model=model)
    with sqlite3.connect(root / FILE) as file:
        ((title, state, page, query),) = file.execute("SELECT title,state,page,query FROM jobs")
    assert title.startswith("Scoring ")
    assert (state, page) == ("done", "pages/scores.py")
    assert model in query
    assert (root / MARK).exists()


def test_a_link_to_a_job_brings_its_settings_back(tmp_path):
    model = str(model_folder(tmp_path / "model"))
    app = open_page("pages/sweep.py", model=model, sparsity="0.3")
    app.text_input(key="set-sweep-percents").set_value("20").run()
    app.query_params.clear()
    for name, text in {"model": model, "sparsity": "0.5", "sweep.percents": "40"}.items():
        app.query_params[name] = text
    app.run()  # as a browser that lags behind: the session counts
    assert app.text_input(key="set-sweep-percents").value == "20"
    assert app.query_params["sparsity"] == "0.3"
    for name, text in {"sparsity": "0.5", "sweep.percents": "40", "open": "1"}.items():
        app.query_params[name] = text
    app.run()
    assert app.text_input(key="set-sweep-percents").value == "40"
    assert app.slider(key="set-percent").value == 50
    assert "open" not in app.query_params
    assert button(app, "Start")
    assert read(app.title[0].value) == "Sweep"
