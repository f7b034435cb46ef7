"""What the command line writes to: terminals of any width, any encoding, and ends that give out."""

import errno
import io
import os
import re
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest

from bipcore.cli import console
from bipcore.cli.main import main
from tests.helpers.folders import model_folder
from tests.helpers.processes import ROOT

SMALL = ("--samples", "2", "--seq-len", "8")
BIPCORE = [sys.executable, "-m", "bipcore"]


class Terminal(io.TextIOWrapper):
    """A stream that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8"):
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self) -> bool:
        return True

    @property
    def shown(self) -> str:
        """What was written, without what a terminal obeys."""
        self.flush()
        return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", self.buffer.getvalue().decode(self.encoding))


class Full(io.RawIOBase):
    """A file on a disk that is full."""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def terminal(monkeypatch):
    """Makes standard output a terminal so many columns wide."""

    def make(columns: int, encoding: str = "utf-8") -> Terminal:
        stream = Terminal(encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setenv("TERM", "xterm")
        return stream

    return make


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("output") / "model"))


@pytest.mark.parametrize("columns", [160, 80, 40, 20])
def test_tables_keep_their_digits_however_narrow_the_terminal(terminal, columns):
    stream = terminal(columns)
    numbers = ["123,456,789.0123", "0.0123456", "98,765,432"]
    console.emit_table("Figures", ["Of", "First", "Second", "Third"], [["x/y", *numbers]])
    console.emit_facts("Facts", {"parameters": numbers[0], "bytes": numbers[2]})
    console.emit_frame("A frame", pd.DataFrame({"name": ["x"], "mean_score": [1.25e-05]}))
    for number in (*numbers, "1.25e-05"):
        assert number in stream.shown
    assert "…" not in stream.shown


def test_a_long_title_is_not_cut(terminal):
    stream = terminal(20)
    console.emit_text("recovered (128 tokens, 31.5 tokens/s)", "text")
    assert "(128 tokens, 31.5 tokens/s)" in stream.shown


@pytest.mark.parametrize("name", ["[/x]", "[red]x", "[link=http://127.0.0.1:9]x[/link]", ":smile:"])
def test_names_are_printed_as_they_are_wherever(terminal, capsys, name):
    stream = terminal(80)
    console.emit_table(name, [name, name], [[name, name]])
    console.emit_text(name, name)
    assert stream.shown.count(name) == 7
    console.fail(name)
    assert capsys.readouterr().err == f"error: {name}\n"


def test_a_progress_line_takes_its_message_as_it_is(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr(console, "err", console.Console(file=stream, width=80, **console._PLAIN))
    with console.progress_bar() as progress:
        progress(0.5, "Scoring [/x] \x1b[31m")
        time.sleep(0.3)
    assert "Scoring [/x] \N{REPLACEMENT CHARACTER}[31m" in stream.shown


def test_control_characters_do_not_reach_the_terminal(terminal, capsys):
    stream = terminal(80)
    evil = "a\x1b]0;title\x07b"
    console.emit_table(evil, ["x", "y"], [[evil, evil]])
    console.emit_text(evil, evil)
    console.emit_line(evil)
    console.fail(evil)
    for shown in (stream.shown, capsys.readouterr().err):
        assert "\x1b]" not in shown
        assert "\x07" not in shown
        assert "]0;title" in shown


def test_what_an_encoding_cannot_say_is_replaced(terminal, monkeypatch, cache, model):
    stream, errors = terminal(80, "ascii"), Terminal("ascii")
    monkeypatch.setattr(sys, "stderr", errors)
    assert main(["score", model, *SMALL, "--sparsity", "0.2"]) == 0
    assert main(["generate", model, "--prompt", "ü×─", "--max-new-tokens", "2"]) == 0
    assert main(["score", "/nowhere/─×"]) == 2
    assert "dense (2 tokens" in stream.shown
    assert errors.shown.split("\n")[-2].startswith("error: The folder /nowhere/?? does not exist;")


def test_a_full_disk_behind_the_output_is_one_sentence(monkeypatch, capsys, cache):
    for arguments in (["cache", "list"], ["cache", "list", "--json"], ["--version"]):
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Full())))
        assert main(arguments) == 2
        error = "error: The output cannot be written: No space left on device.\n"
        assert capsys.readouterr().err == error
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BufferedWriter(Full())))
    assert main(["--help"]) == 2  # what typer prints itself
    assert "No space left on device" in capsys.readouterr().err


def test_a_full_disk_behind_the_errors_keeps_the_exit_status(monkeypatch, cache):
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BufferedWriter(Full())))
    assert main(["no-such-command"]) == 2


def _environment(cache) -> dict[str, str]:
    return {**os.environ, "BIPCORE_CACHE": str(cache)}


def test_a_pipe_that_is_closed_ends_it_in_silence(tmp_path):
    reading, writing = os.pipe()
    os.close(reading)
    streams = {"stdout": writing, "stderr": subprocess.PIPE}
    command, environment = [*BIPCORE, "cache", "list"], _environment(tmp_path)
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, **streams)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


def test_ctrl_c_while_it_is_imported_is_one_line(tmp_path):
    reached = tmp_path / "reached"
    slow = f"import pathlib, time\npathlib.Path({str(reached)!r}).touch()\ntime.sleep(60)\n"
    (tmp_path / "typer.py").write_text(slow)
    environment = _environment(tmp_path) | {"PYTHONPATH": str(tmp_path)}
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([*BIPCORE, "cache"], cwd=ROOT, env=environment, **streams) as process:
        while not reached.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, b"")
    assert err == b"error: Interrupted before anything was done.\n"


def test_words_that_are_not_utf_8_are_refused(cache, capsys):
    assert main(["score", os.fsdecode(b"caf\xe9")]) == 2
    assert "which is not UTF-8 text" in capsys.readouterr().err
