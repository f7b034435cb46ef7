"""Work in a process of its own, by the tiny works of `tests/helpers/works.py`."""

import os
import signal
import time
from functools import partial

import pytest

from tests.helpers import works
from ui import engines
from ui.jobs import CANCELLED, DONE, FAILED, RUNNING, Job, Worker


@pytest.fixture(scope="module")
def worker():
    """A worker with a process, which all tests here share: to start one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(engines.PLACE, "process")
        patch.setenv("PYTHONPATH", str(engines._ROOT))
        made = Worker()
    yield made
    for job in made.active():
        job.cancel()
    made.engine._pipe.close()
    made.engine._process.wait(30)


@pytest.fixture(autouse=True)
def _keys(worker):
    """Each test starts with a worker that knows no job."""
    for job in list(worker._jobs.values()):
        ended(job)
        worker.forget(job.key)


def ended(job: Job, *, seconds: float = 60) -> Job:
    limit = time.monotonic() + seconds
    while job.active:
        assert time.monotonic() < limit, "the job did not end in time"
        time.sleep(0.01)
    return job


def begun(job: Job) -> Job:
    limit = time.monotonic() + 60
    while job.partial is None:
        assert time.monotonic() < limit
        assert job.active, job.error
        time.sleep(0.01)
    return job


def process(worker: Worker) -> int:
    return worker.engine._process.pid


def test_it_is_done_elsewhere_and_its_result_comes_back(worker):
    pids = {ended(worker.submit(key, "", works.where)).result for key in "ab"}
    assert pids == {process(worker)}
    assert os.getpid() not in pids


def test_progress_and_partial_results_come_across_while_it_runs(worker):
    job = begun(worker.submit("a", "", works.endless))
    assert (job.state, job.partial) == (RUNNING, "begun")
    limit = time.monotonic() + 30
    while job.fraction != 0.5:
        assert time.monotonic() < limit
        time.sleep(0.01)
    assert job.message == "going on"
    job.cancel()
    assert ended(job).state == CANCELLED
    assert ended(worker.submit("b", "", works.where)).state == DONE


def test_what_a_user_can_mend_is_a_sentence_and_a_fault_of_ours_is_named(worker):
    refused = ended(worker.submit("a", "", partial(works.refuse, "There is no such text.")))
    assert (refused.state, refused.error) == (FAILED, "There is no such text.")
    odd = ended(worker.submit("b", "", works.odd))
    assert odd.state == FAILED
    assert odd.error.endswith("should not: KeyError: 'inner'")
    unsent = ended(worker.submit("c", "", works.unsendable))
    assert unsent.state == FAILED
    assert ended(worker.submit("d", "", works.where)).state == DONE


def test_work_that_cannot_be_sent_or_read_fails_alone(worker):
    assert ended(worker.submit("a", "", lambda pipeline, job: 1)).state == FAILED
    assert ended(worker.submit("b", "", partial(works.where, works.Unreadable()))).state == FAILED
    assert ended(worker.submit("c", "", works.where)).state == DONE


def test_a_process_that_dies_at_work_is_a_sentence_and_the_next_job_has_another(worker):
    before = process(worker)
    job = begun(worker.submit("a", "", works.endless))
    waits = worker.submit("b", "", works.where)
    os.kill(before, signal.SIGKILL)
    assert ended(job).state == FAILED
    assert "ended by signal 9, as it does where memory runs out" in job.error
    assert ended(waits).result == process(worker) != before


def test_one_that_dies_with_nothing_to_do_is_not_missed(worker):
    before = ended(worker.submit("a", "", works.where)).result
    os.kill(before, signal.SIGKILL)
    worker.engine._process.wait(30)
    assert ended(worker.submit("b", "", works.where)).result not in (None, before)


def test_work_that_does_not_look_up_is_ended_with_its_process(worker, monkeypatch):
    monkeypatch.setattr(engines, "_PATIENCE", 0.5)
    before = process(worker)
    job = begun(worker.submit("a", "", works.deaf))
    job.cancel()
    assert ended(job).state == CANCELLED
    assert ended(worker.submit("b", "", works.where)).result != before


def test_what_is_kept_in_memory_is_told(worker):
    ended(worker.submit("a", "", works.keep))
    assert worker.held.names == ("tiny",)
    assert worker.held.bytes("cpu") == 4 * 1000
    ended(worker.submit("b", "", works.let_go))
    assert worker.held.names == ()


def test_the_process_ends_with_its_server(worker):
    made = engines.InProcess()
    made.start()
    made._pipe.close()
    assert made._process.wait(30) == 0


def test_the_process_ends_with_its_server_though_its_work_does_not(tmp_path):
    made = engines.InProcess()
    made.start()
    reached = tmp_path / "reached"
    made._pipe.send("do", partial(works.deaf, reached))
    limit = time.monotonic() + 60
    while not reached.exists():
        assert time.monotonic() < limit
        time.sleep(0.01)
    made._pipe.close()
    assert made._process.wait(30) == 1
