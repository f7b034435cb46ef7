"""The real llama.cpp, which `make llama-cpp` installs, asked about GGUF files."""

import json
import os
import subprocess
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

SCRIPT = Path(__file__).with_suffix(".mjs")
VARIABLE = "BIPCORE_LLAMA_CPP"
"""Names the folder that it is installed in."""


def skip_without() -> None:
    """Skip a test where llama.cpp is not installed."""
    if not os.environ.get(VARIABLE):
        pytest.skip("make llama-cpp installs llama.cpp and runs this")


def ask(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What it found of each of the ``jobs`` (see the script). Where it is not installed there is
    nothing to test."""
    skip_without()
    with TemporaryDirectory() as scratch:
        asked, found = Path(scratch, "jobs.json"), Path(scratch, "found.json")
        asked.write_text(json.dumps(jobs))
        command = ["node", str(SCRIPT), os.environ[VARIABLE], str(asked), str(found)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(found.read_text())
