"""`plan make` with a target of latency, in one go: measured, planned, written and shown."""

import re

import pytest

from bipcore.cli.main import main
from bipcore.pruning.plan import load_plan
from tests.helpers.folders import model_folder
from tests.helpers.tiny import one_thread as one_thread

SETTINGS = ("--samples", "4", "--seq-len", "16", "--criterion", "obs-fisher")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("models") / "mistral", "mistral"))


def test_a_latency_is_asked_for_predicted_and_measured(run, run_json, model, tmp_path):
    words = ("plan", "make", model, *SETTINGS, "--output", tmp_path / "a.json")
    said = run(*words, "--target", "latency=99.999%@20")
    timed = load_plan(tmp_path / "a.json").spec["latency"]
    assert timed["predicted"] <= timed["asked"] < timed["dense"]
    assert "Asked" in said
    assert f"predicted {timed['predicted']:.3g} ms, measured {timed['measured']:.3g} ms" in said
    assert "behind 20 tokens in float32" in said
    found = run_json(*words, "--target", "latency=99.998%@20")
    assert found["plan"]["latency"]["dense"] == timed["dense"]  # by the stored times
    assert found["plan"]["target"] == "latency=99.998%@20"
    assert "measured" in run("plan", "show", tmp_path / "a.json")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        # the second where a busy machine's times leave nothing outside of the blocks
        ("latency=0.0001ms@20", "below the smallest plan|removes the attention of every block"),
        ("latency=9999ms@20", "is not below what the dense model has, latency="),
        ("latency=30parsecs", "is a number above 0 such as 30ms or 60%"),
        ("latency=60%@999999", "The context of a target of latency is from 1 to"),
    ],
)
def test_a_latency_that_cannot_be_is_refused_in_one_sentence(
    capsys, cache, model, tmp_path, target, said
):
    words = ["plan", "make", model, *SETTINGS, "--output", str(tmp_path / "a.json")]
    assert main([*words, "--target", target]) == 2
    printed = capsys.readouterr()
    errors = [line for line in printed.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert re.search(said, errors[0])
    assert not (tmp_path / "a.json").exists()
