"""The command line in processes of its own: exports, shared stores, what goes to which stream."""

import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import astuple
from pathlib import Path

import pytest

from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import CalibrationSpec, ModelSpec, ScoreSpec
from bipcore.store.runs import RunStore
from tests.helpers.cli import Call, run_all
from tests.helpers.folders import model_folder, truncate

ROOT = Path(__file__).resolve().parents[2]
UNKNOWN = "bipcore-no-such-owner/no-such-model-4f1d"

_LOADER = """
import importlib.util, json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
assert importlib.util.find_spec("bipcore") is None
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
batch = tokenizer("The capital of France is", return_tensors="pt")
new = model.generate(**batch, max_new_tokens=2, do_sample=False)
print(json.dumps([sum(p.numel() for p in model.parameters()), tokenizer.decode(new[0])]))
"""


def _start(*arguments: object, cache: Path) -> subprocess.Popen:
    """``python -m bipcore`` with these arguments."""
    command = [sys.executable, "-m", "bipcore", *map(str, arguments)]
    environment = {**os.environ, "BIPCORE_CACHE": str(cache)}
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True)


def _run(*arguments: object, cache: Path) -> tuple[int, str, str]:
    """Its exit status, standard output and standard error."""
    process = _start(*arguments, cache=cache)
    out, err = process.communicate(timeout=200)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("model")))


def _score(model: str) -> tuple:
    return ("score", model, "--samples", 4, "--seq-len", 16, "--json")


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


def test_two_commands_that_compute_the_same_at_once_both_succeed(model, tmp_path):
    both = [_start(*_score(model), cache=tmp_path) for _ in range(2)]
    ended = [(*process.communicate(timeout=200), process.returncode) for process in both]
    assert [status for _, _, status in ended] == [0, 0], ended
    first, second = (json.loads(out)["blocks"] for out, _, _ in ended)
    assert first == second
    assert all(entry.whole for entry in RunStore(tmp_path).entries())


@pytest.fixture(scope="module")
def ended(model, tmp_path_factory):
    """A score of which the stored entry is damaged, and calls for help: how each ended."""
    root = tmp_path_factory.mktemp("calls")
    spec = ScoreSpec(ModelSpec(model), CalibrationSpec(samples=4, seq_len=16))
    scores = Pipeline(RunStore(root / "store")).scores(spec)
    (entry,) = (e for e in RunStore(root / "store").entries() if e.kind == "scores")
    truncate(entry.path / "data.safetensors", by=8)
    calls = {"damaged": [str(word) for word in _score(model)], "nothing": [], "help": ["--help"]}
    env = {"BIPCORE_CACHE": str(root / "store")}
    results = run_all({name: Call(words, str(root), env) for name, words in calls.items()}, root)
    return scores, results


def test_a_damaged_entry_is_a_warning_in_one_line(ended):
    scores, results = ended
    status, out, err = astuple(results["damaged"])
    assert status == 0
    heads = [block["heads"] for block in json.loads(out)["blocks"]]
    assert heads == [block.heads.tolist() for block in scores.blocks]
    (line,) = err.strip().splitlines()
    assert line.startswith("warning: The stored result scores/")
    assert "is damaged" in line


@pytest.mark.parametrize("call", ["nothing", "help"])
def test_without_a_command_the_commands_are_listed(ended, call):
    status, out, err = astuple(ended[1][call])
    assert (status, err) == (0, "")
    for command in ("score", "prune", "evaluate", "profile", "generate", "cache"):
        assert command in out


def test_an_unknown_hub_id_is_refused_quickly_with_or_without_a_network(tmp_path):
    start = time.perf_counter()
    status, out, err = _run("score", UNKNOWN, cache=tmp_path)
    assert time.perf_counter() - start < 60
    assert (status, out) == (2, "")
    (line,) = err.strip().splitlines()
    assert line.startswith("error: ")
    assert UNKNOWN in line
