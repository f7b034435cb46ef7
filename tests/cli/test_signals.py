"""SIGTERM ends a command, which leaves nothing behind."""

import os
import signal
import threading

import pytest

from bipcore.cli import main
from bipcore.store.files import whole_folder
from tests.helpers.folders import tree


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """A command that is ended while it writes a folder."""

    def write() -> None:
        with whole_folder(tmp_path / "out") as unfinished:
            (unfinished / "half").write_text("half")
            assert len(tree(tmp_path)) == 2
            os.kill(os.getpid(), signal.SIGTERM)
            (unfinished / "rest").write_text("rest")

    monkeypatch.setitem(main.COMMANDS, "write", write)
    main.command_line.cache_clear()
    yield lambda: main.main(["write"])
    main.command_line.cache_clear()


def test_a_command_that_is_terminated_removes_what_it_wrote(tmp_path, ended, capsys):
    assert ended() == 143
    assert tree(tmp_path) == []
    assert "what was stored before is kept" in capsys.readouterr().err


def test_the_signal_means_afterwards_what_it_meant_before(ended, capsys):
    ended()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_ignores_the_signal_goes_on_to_ignore_it(tmp_path, ended, run):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        assert ended() == 0
    finally:
        signal.signal(signal.SIGTERM, before)
    assert tree(tmp_path) == ["out", "out/half", "out/rest"]


def test_a_command_in_a_thread_of_its_own_works(cache, capsys):
    thread = threading.Thread(target=main.main, args=[["cache", "size"]])
    thread.start()
    thread.join()
    assert "all" in capsys.readouterr().out
