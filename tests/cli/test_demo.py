"""The demo model pruned from the command line, and loaded where there is no bipcore."""

import json
import shutil
import subprocess
import sys

import pytest

from tests.helpers.cli import run_module

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


@pytest.fixture
def demo_export(session_cache, demo, tmp_path):
    """The demo model pruned from the command line: the folder, and how the command ended."""
    out = tmp_path / "out"
    settings = ("--samples", 8, "--seq-len", 64, "--no-evaluate", "--json")
    arguments = ("prune", "demo", "--criterion", "llm-bip", "--sparsity", 0.2, *settings)
    yield out, run_module(*arguments, "--output", out, cache=session_cache)
    shutil.rmtree(out, ignore_errors=True)


def test_the_pruned_demo_model_loads_by_transformers_alone(demo_export, tmp_path):
    out, ended = demo_export
    assert ended.status == 0, ended.err
    facts = json.loads(ended.out)
    assert abs(facts["realised"] - 0.2) < 0.005
    command = [sys.executable, "-I", "-c", _LOADER, str(out)]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stderr
    parameters, text = json.loads(done.stdout)
    assert parameters == facts["parameters"] < 114e6
    assert text.startswith("The capital of France is ")
