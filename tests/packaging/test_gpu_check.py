"""`benchmarks/gpu.py`, which is made for a machine with a GPU, does on the CPU what it says."""

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.tiny import one_thread  # noqa: F401

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ABSENT = ("streamlit", "lm_eval", "plotly", "peft", "typer", "rich", "datasets", "gguf")
STEPS = "load forward statistics score prune evaluate generate export read streamed"
TINY = ["--size", "tiny", "--device", "cpu", "--samples", "2", "--seq-len", "32"]


@pytest.fixture
def gpu(monkeypatch):
    """The script as a module; it says where it keeps things."""
    monkeypatch.setenv("BIPCORE_CACHE", "")
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("gpu")


def test_all_steps_run_without_what_the_app_the_command_line_and_the_tasks_need():
    hidden = f"import sys; sys.modules.update(dict.fromkeys({ABSENT}))"
    script = f"sys.path.insert(0, {str(BENCHMARKS)!r}); import gpu; sys.exit(gpu.main())"
    done = subprocess.run(
        [sys.executable, "-c", f"{hidden}; {script}", *TINY],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    steps = [line.split()[0] for line in done.stdout.splitlines() if " MiB " in line]
    assert " ".join(steps) == STEPS


def test_a_difference_beyond_its_bound_is_said_and_ends_with_1(gpu, monkeypatch, capsys):
    narrow = gpu.Bounds(torch.float32, 3)  # what float16 cannot keep to
    monkeypatch.setattr(gpu, "Bounds", lambda *_: narrow)
    monkeypatch.setattr(sys, "argv", ["gpu.py", *TINY, "--dtype", "float16"])
    assert gpu.main() == 1
    printed = capsys.readouterr()
    assert "forward: logits differ by" in printed.err
    assert printed.out.count("BROKEN") == len(printed.err.strip().splitlines())


def test_without_a_gpu_it_says_so_and_ends_with_2(gpu, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    assert gpu.main() == 2
    assert capsys.readouterr().err == (
        "There is no CUDA device here; --device cpu tries the script.\n"
    )
