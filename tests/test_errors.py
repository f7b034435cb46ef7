"""How errors are said: always something, in one line."""

import errno
import json

import numpy as np
import pytest
import torch

from bipcore.errors import InputError, explain, printable, reason_of, short


def raised(call) -> Exception:
    """The exception that ``call`` ends in."""
    try:
        call()
    except Exception as error:
        return error
    raise AssertionError("it ended well")


def _missing() -> None:
    with open("/no/such/file"):
        pass


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (_missing, "No such file or directory"),
        (lambda: {}["evil"], "it has no 'evil'"),
        (lambda: [][1], "it is not of the form that is expected"),
        (lambda: list(None), "it is not of the form that is expected"),
        (lambda: None.name, "it is not of the form that is expected"),
        (lambda: json.loads("[" * 100_000), "it is nested too deeply"),
        (lambda: int("9" * 5000), "it has a number with too many digits"),
        (lambda: b"\xff".decode(), "it is not UTF-8 text"),
        (lambda: torch.empty(2**50), "there is not enough memory"),
    ],
)
def test_a_reason_says_what_was_wrong(call, said):
    assert reason_of(raised(call)) == said


def test_a_reason_is_one_line_without_its_stop():
    assert reason_of(ValueError("Too wide.\nAnd more.")) == "Too wide"
    assert reason_of(ValueError("\x1b[31mred")) == "\N{REPLACEMENT CHARACTER}[31mred"


@pytest.mark.parametrize(
    "error", [OSError(), ValueError(), RuntimeError(" \n"), OSError(None, None)]
)
def test_a_reason_is_never_empty_or_the_name_of_a_class(error):
    assert reason_of(error) == "no reason is given"


@pytest.mark.parametrize(
    "error",
    [
        raised(lambda: torch.empty(2**50)),
        raised(lambda: torch.empty(2**62, dtype=torch.float64)),
        raised(lambda: np.empty(2**55)),
        MemoryError(),
        RuntimeError("std::bad_alloc"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0"),
        RuntimeError("unable to mmap 64 bytes from file <x>: Cannot allocate memory (12)"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_memory_that_runs_out_is_one_sentence_wherever_it_was_noticed(error):
    assert explain(error).startswith("There is not enough memory for this;")


def test_a_full_disk_is_one_sentence_with_its_file():
    said = explain(OSError(errno.ENOSPC, "No space left on device", "/data/x"))
    assert "No space left on device (/data/x)" in said


def test_a_bug_is_not_explained():
    for error in (KeyError("x"), RuntimeError("shape mismatch"), OSError(errno.EBADF, "Bad")):
        assert explain(error) is None
    assert explain(InputError("Say more.")) == "Say more."


def test_what_a_sentence_quotes_is_short_and_on_one_line():
    assert short("a\nb") == "a\N{REPLACEMENT CHARACTER}b"
    assert len(short("x" * 5000)) == 200
    assert printable("a\n\tb\x1b\udcff", keep="\n\t") == "a\n\tb" + 2 * "\N{REPLACEMENT CHARACTER}"
