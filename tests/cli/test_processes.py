"""The command line in processes of its own: exports, shared stores, what goes to which stream."""

import json
import time
from dataclasses import astuple

import pytest

from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import CalibrationSpec, ModelSpec, ScoreSpec
from bipcore.store.runs import RunStore
from tests.helpers.cli import Call, refusal, run_all, run_module, start
from tests.helpers.folders import model_folder, truncate

UNKNOWN = "bipcore-no-such-owner/no-such-model-4f1d"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("model")))


def _score(model: str) -> tuple:
    return ("score", model, "--samples", 4, "--seq-len", 16, "--json")


def test_two_commands_that_compute_the_same_at_once_both_succeed(model, tmp_path):
    env = {"BIPCORE_CACHE": str(tmp_path)}
    call = Call([str(word) for word in _score(model)], str(tmp_path), env)
    both = [start(call) for _ in range(2)]
    ended = [process.wait() for process in both]
    assert [one.status for one in ended] == [0, 0], ended
    first, second = (json.loads(one.out)["blocks"] for one in ended)
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
    results = run_all({name: Call(words, str(root), env) for name, words in calls.items()})
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
    began = time.perf_counter()
    ended = run_module("score", UNKNOWN, cache=tmp_path)
    assert time.perf_counter() - began < 60
    assert UNKNOWN in refusal(ended)
