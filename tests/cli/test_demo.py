"""The demo model pruned from the command line, and loaded where there is no bipcore."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_LOADER = """
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
sys.modules["bipcore"] = None  # importing it fails, installed or not
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
batch = tokenizer("The capital of France is", return_tensors="pt")
new = model.generate(**batch, max_new_tokens=2, do_sample=False)
print(json.dumps([sum(p.numel() for p in model.parameters()), tokenizer.decode(new[0])]))
"""


def _run(*arguments: object, cache: Path) -> tuple[int, str, str]:
    """How ``python -m bipcore`` ends: its exit status, standard output and standard error."""
    done = subprocess.run(
        [sys.executable, "-m", "bipcore", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "BIPCORE_CACHE": str(cache)},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def demo_export(session_cache, demo, tmp_path):
    """The demo model pruned from the command line: the folder, and how the command ended."""
    out = tmp_path / "out"
    settings = ("--samples", 8, "--seq-len", 64, "--no-evaluate", "--json")
    arguments = ("prune", "demo", "--criterion", "llm-bip", "--sparsity", 0.2, *settings)
    yield out, _run(*arguments, "--output", out, cache=session_cache)
    shutil.rmtree(out, ignore_errors=True)


def test_the_pruned_demo_model_loads_by_transformers_alone(demo_export, tmp_path):
    out, (status, printed, err) = demo_export
    assert status == 0, err
    facts = json.loads(printed)
    assert abs(facts["realised"] - 0.2) < 0.005
    command = [sys.executable, "-I", "-c", _LOADER, str(out)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    parameters, text = json.loads(done.stdout)
    assert parameters == facts["parameters"] < 114e6
    assert text.startswith("The capital of France is ")
