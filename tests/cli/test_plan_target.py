"""`plan make` with a target of latency and a search, in one go: measured, written and shown."""

import pytest

from bipcore.cli.main import main
from bipcore.evaluation import decoding
from bipcore.pruning.plan import load_plan
from tests.helpers.folders import model_folder
from tests.helpers.tiny import one_thread as one_thread

SETTINGS = ("--samples", "4", "--seq-len", "16", "--criterion", "obs-fisher")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("models") / "mistral", "mistral"))


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A token takes a nanosecond for each parameter: a busy machine's times would tell nothing of
    a model as small as this. What is decoded is decoded all the same."""
    real = decoding._decoded

    def timed(model, context: int, repeats: int) -> list[float]:
        size = sum(parameter.numel() for parameter in model.parameters())
        return [1e-9 * size for _ in real(model, context, repeats)]

    monkeypatch.setattr(decoding, "_decoded", timed)


def test_a_latency_is_asked_for_predicted_and_measured(run, run_json, model, tmp_path):
    words = ("plan", "make", model, *SETTINGS, "--output", tmp_path / "a.json")
    said = run(*words, "--target", "latency=80%@20")
    timed = load_plan(tmp_path / "a.json").spec["latency"]
    assert timed["predicted"] <= timed["asked"] < timed["dense"]
    assert "Asked" in said
    assert f"predicted {timed['predicted']:.3g} ms, measured {timed['measured']:.3g} ms" in said
    assert "behind 20 tokens in float32" in said
    found = run_json(*words, "--target", "latency=70%@20")
    assert found["plan"]["latency"]["dense"] == timed["dense"]  # by the stored times
    assert found["plan"]["target"] == "latency=70%@20"
    assert "measured" in run("plan", "show", tmp_path / "a.json")


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ("latency=0.000001ms@20", "is below the smallest plan, which has latency="),
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
    assert said in errors[0]
    assert not (tmp_path / "a.json").exists()


def test_a_search_goes_on_from_the_plan_of_a_target(run, run_json, model, tmp_path):
    words = ("plan", "make", model, *SETTINGS, "--output", tmp_path / "a.json", "--search", "4")
    words += ("--search-samples", "2", "--target", "latency=80%@20")
    found = run_json(*words)["plan"]
    assert found["search"]["steps"] == 4
    assert found["latency"]["predicted"] <= found["latency"]["asked"]
    said = run("plan", "show", tmp_path / "a.json")
    assert "4 trials on 32 held-out tokens" in said
    assert f"to {found['search']['divergence']:.4f} nats a token" in said


def test_a_search_without_a_step_is_refused(capsys, cache, model, tmp_path):
    words = ["plan", "make", model, *SETTINGS, "--output", str(tmp_path / "a.json")]
    assert main([*words, "--search", "0"]) == 2
    assert "greater than or equal to 1" in capsys.readouterr().err
    assert not (tmp_path / "a.json").exists()
