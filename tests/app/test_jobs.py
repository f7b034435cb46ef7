"""The worker that does what takes long."""

import sys
import threading
import time

import pytest

from bipcore.errors import InputError
from ui.jobs import CANCELLED, DONE, FAILED, RUNNING, Job, Worker


@pytest.fixture
def worker() -> Worker:
    return Worker()


def wait(job, *, seconds: float = 30):
    """Until the job has ended."""
    limit = time.monotonic() + seconds
    while job.active and time.monotonic() < limit:
        time.sleep(0.01)
    assert not job.active
    return job


def endless(pipeline, job):
    """Work that goes on until it is cancelled."""
    while True:
        job.report(0.5, "going on")
        time.sleep(0.01)


def test_a_job_ends_with_its_result_and_full_progress(worker):
    job = wait(worker.submit("a", "Adding", lambda pipeline, job: 1 + 1))
    assert (job.state, job.result, job.fraction, job.error) == (DONE, 2, 1.0, None)


def test_progress_and_partial_results_show_while_it_runs(worker):
    seen, go_on = threading.Event(), threading.Event()

    def work(pipeline, job):
        job.report(0.25, "a quarter")
        job.partial = "half a text"
        seen.set()
        go_on.wait(30)

    job = worker.submit("a", "Writing", work)
    assert seen.wait(30)
    assert (job.state, job.fraction, job.message) == (RUNNING, 0.25, "a quarter")
    assert job.partial == "half a text"
    go_on.set()
    wait(job)


def test_the_time_left_follows_the_latest_rate_and_counts_down(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("ui.jobs.time.monotonic", lambda: clock[0])
    job = Job("a", "Two phases", endless)
    job.report(0.0, "slow")
    assert job.seconds_left is None
    for second in range(1, 101):  # a tenth in a hundred seconds
        clock[0] = second
        job.report(second / 1000, "slow")
    assert job.seconds_left == pytest.approx(900)
    for second in range(1, 41):  # a hundredth in each
        clock[0] = 100 + second
        job.report(0.1 + second / 100, "fast")
    assert job.seconds_left == pytest.approx(50)
    clock[0] += 10
    assert job.seconds_left == pytest.approx(40)
    clock[0] += 60  # longer than it should
    assert job.seconds_left is None


def test_how_the_last_jobs_ended_is_known_though_they_are_forgotten(worker):
    def fail(pipeline, job):
        raise InputError("No such file.")

    for key, work in (("a", lambda pipeline, job: 1), ("b", fail)):
        wait(worker.submit(key, key, work))
        worker.forget(key)
    for number in range(5):
        wait(worker.submit(str(number), str(number), lambda pipeline, job: 1))
    limit = time.monotonic() + 30
    while [job.key for job in worker.ended()] != list("43210") and time.monotonic() < limit:
        time.sleep(0.01)
    assert [job.key for job in worker.ended()] == list("43210")
    assert all(job.seconds >= 0 for job in worker.ended())


def test_the_pipeline_reports_to_the_job(worker):
    job = wait(worker.submit("a", "", lambda pipeline, job: pipeline.progress(0.75, "three")))
    assert job.message == "three"


def test_the_same_key_gives_the_same_job_while_it_runs_and_when_it_is_done(worker):
    first = worker.submit("a", "Waiting", endless)
    assert worker.submit("a", "Waiting", endless) is first
    assert worker.find("a") is first
    first.cancel()
    wait(first)
    done = wait(worker.submit("b", "Short", lambda pipeline, job: "kept"))
    assert worker.submit("b", "Short", lambda pipeline, job: "anew") is done


def test_cancelling_stops_a_running_job_at_its_next_step(worker):
    job = worker.submit("a", "Endless", endless)
    while job.state != RUNNING:
        time.sleep(0.01)
    job.cancel()
    assert wait(job).state == CANCELLED


def test_cancelling_a_waiting_job_keeps_it_from_starting(worker):
    ran = []
    first = worker.submit("a", "Endless", endless)
    second = worker.submit("b", "Never", lambda pipeline, job: ran.append(1))
    second.cancel()
    first.cancel()
    wait(first)
    third = wait(worker.submit("c", "After", lambda pipeline, job: "done"))
    assert (second.state, ran, third.result) == (CANCELLED, [], "done")


def test_jobs_run_one_after_the_other_in_one_thread(worker):
    threads = []
    jobs = [
        worker.submit(str(n), "", lambda pipeline, job: threads.append(threading.get_ident()))
        for n in range(4)
    ]
    for job in jobs:
        wait(job)
    assert len(set(threads)) == 1
    assert threading.get_ident() not in threads


def test_bad_input_keeps_its_sentence_and_the_worker_goes_on(worker):
    def work(pipeline, job):
        raise InputError("The folder x does not exist.")

    failed = wait(worker.submit("a", "", work))
    assert (failed.state, failed.error) == (FAILED, "The folder x does not exist.")
    assert wait(worker.submit("b", "", lambda pipeline, job: 3)).result == 3


def test_an_unexpected_error_keeps_its_message_and_is_logged(worker, caplog):
    def work(pipeline, job):
        raise KeyError("inner")

    failed = wait(worker.submit("a", "Odd", work))
    assert failed.state == FAILED
    assert "KeyError" in failed.error
    assert "inner" in failed.error
    assert "Odd" in caplog.text


def test_a_job_cancelled_in_time_never_runs_and_one_too_late_goes_on_as_running(worker):
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for number in range(300):
            ran = threading.Event()
            job = worker.submit(str(number), "", lambda pipeline, job, ran=ran: ran.set())
            job.cancel()
            cancelled = job.state == CANCELLED and not ran.is_set()
            wait(job)
            assert not (cancelled and ran.is_set())
    finally:
        sys.setswitchinterval(before)


def test_cancelling_a_running_job_leaves_it_running_until_it_stops(worker):
    entered, go_on = threading.Event(), threading.Event()

    def work(pipeline, job):
        entered.set()
        go_on.wait(30)
        job.report(0.5, "here")

    job = worker.submit("a", "", work)
    assert entered.wait(30)
    job.cancel()
    assert job.state == RUNNING
    go_on.set()
    assert wait(job).state == CANCELLED


def test_what_failed_stays_so_until_it_is_asked_for_again(worker):
    def work(pipeline, job):
        raise InputError("No.")

    failed = wait(worker.ask("a", "", work))
    assert worker.ask("a", "", work) is failed
    assert failed.state == FAILED


def test_trying_again_in_two_tabs_is_one_retry(worker):
    def work(pipeline, job):
        raise InputError("No.")

    seen = wait(worker.ask("a", "", work))  # by both tabs
    worker.forget("a", seen)
    retried = wait(worker.ask("a", "", work))
    worker.forget("a", seen)  # the second tab is late
    assert worker.ask("a", "", work) is retried
    assert retried is not seen


def test_a_run_store_that_cannot_be_is_the_failure_of_its_job_alone(worker, monkeypatch, tmp_path):
    monkeypatch.setenv("BIPCORE_CACHE", "~nosuchuser/store")
    failed = wait(worker.ask("a", "", lambda pipeline, job: 1))
    assert failed.state == FAILED
    assert "~nosuchuser/store" in failed.error
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "store"))
    assert wait(worker.ask("b", "", lambda pipeline, job: 1)).result == 1


def test_many_who_ask_at_once_get_the_same_job(worker):
    go, jobs = threading.Barrier(8), []

    def ask():
        go.wait(30)
        jobs.append(worker.ask("a", "", lambda pipeline, job: object()))

    tabs = [threading.Thread(target=ask) for _ in range(8)]
    for tab in tabs:
        tab.start()
    for tab in tabs:
        tab.join()
    assert len(set(map(id, jobs))) == 1
    assert wait(jobs[0]).state == DONE


def test_a_failed_job_is_run_again_when_asked_for_again(worker):
    answers = iter([ZeroDivisionError("once"), "fine"])

    def work(pipeline, job):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert wait(worker.submit("a", "", work)).state == FAILED
    assert wait(worker.submit("a", "", work)).result == "fine"


def test_forgetting_leaves_a_running_job_and_drops_a_finished_one(worker):
    job = worker.submit("a", "", endless)
    worker.forget("a")
    assert worker.find("a") is job
    job.cancel()
    wait(job)
    worker.forget("a")
    assert worker.find("a") is None


def test_finished_jobs_do_not_pile_up(worker):
    for number in range(100):
        wait(worker.submit(str(number), "", lambda pipeline, job: None))
    assert worker.find("99") is not None
    assert worker.find("0") is None
