"""The command ``diff``: where a pruned model differs from the dense one, printed and as JSON."""

from pathlib import Path

import pytest

from bipcore.cli.main import main
from tests.helpers.folders import model_folder
from tests.helpers.tiny import one_thread as one_thread

CUT = ("--samples", "2", "--seq-len", "16", "--sparsity", "0.5")


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model"))


@pytest.fixture
def text(tmp_path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("A text of the user's own, in which a few tokens differ more than others.")
    return str(path)


def test_the_figures_of_a_text_are_those_of_evaluate(run_json, model):
    same = ("--text", "builtin", "--window", "16", "--max-tokens", "64")
    found = run_json("diff", model, *CUT, *same)
    measured = run_json("evaluate", model, *CUT, *same, "--metrics", "kl,agreement")["pruned"]
    assert found["kl"] == pytest.approx(measured["kl"], rel=1e-5)
    assert found["agreement"] == pytest.approx(measured["agreement"])
    assert (found["tokens"], found["compared"]) == (64, "pruned")


def test_a_short_text_of_ones_own_is_read_to_its_end(run, run_json, model, text):
    found = run_json("diff", model, *CUT, "--text", text, "--window", "16", "--worst", "3")
    assert found["tokens"] % 16
    assert len(found["worst"]) == 3
    apart = [row["kl"] for row in found["worst"]]
    assert apart == sorted(apart, reverse=True)
    assert apart[0] > found["kl"] > 0
    assert all(0 <= row["position"] < found["tokens"] for row in found["worst"])
    table = run("diff", model, *CUT, "--text", text, "--window", "16", "--worst", "3")
    assert "Where they are furthest apart" in table
    for row in found["worst"]:
        assert f"{row['kl']:.2f}" in table


def test_the_worst_passages_are_listed_when_asked_for(run, run_json, model, text):
    words = ("diff", model, *CUT, "--text", text, "--window", "16")
    assert "passages" not in run_json(*words)
    found = run_json(*words, "--passages", "5")
    parts = sorted(found["passages"], key=lambda one: one["start"])
    assert sum(one["tokens"] for one in parts) == found["tokens"]
    assert found["passages"][0]["kl"] == max(one["kl"] for one in parts)
    mean = sum(one["kl"] * one["tokens"] for one in parts) / found["tokens"]
    assert mean == pytest.approx(found["kl"])
    assert "".join(one["text"] for one in parts) == Path(text).read_text()
    assert "Passages in which they are furthest apart" in run(*words, "--passages", "1")


def test_the_models_are_compared_after_every_block(run, run_json, model, text):
    words = ("diff", model, *CUT, "--text", text, "--window", "16", "--depth")
    found = run_json(*words)["depth"]
    assert found["tokens"] == 16
    assert len(found["distance"]) == len(found["divergence"]) == 3
    assert max(found["distance"]) > 0
    said = run(*words, "--worst", "0")
    assert "After every block, on 16 tokens" in said


def test_a_plan_of_a_file_is_compared_and_nothing_removed_differs_nowhere(
    tmp_path, run, run_json, model, text
):
    plan = str(tmp_path / "plan.json")
    run("plan", "make", model, *CUT, "--output", plan)
    by_plan = run_json("diff", model, "--plan", plan, "--text", text)
    assert by_plan["kl"] == run_json("diff", model, *CUT, "--text", text)["kl"]
    nothing = run_json("diff", model, *CUT[:-1], "0", "--text", text)
    assert (nothing["kl"], nothing["agreement"]) == (0, 1)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "Say which model to compare"),
        (("--sparsity", "0.5", "--worst", "-1"), "at least 0"),
        (("--sparsity", "0.5", "--passages", "-1"), "at least 0"),
        (("--sparsity", "0.5", "--text", "nowhere.txt"), "nowhere.txt"),
        (("--sparsity", "0.5", "--window", "100000"), "positions"),
        (("--recovery", "0123456789abcdef"), "0123456789abcdef"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_sentence(model, capsys, words, said):
    assert main(["diff", model, "--samples", "2", "--seq-len", "16", *words]) == 2
    error = capsys.readouterr().err.strip()
    assert said in error
    assert len(error.splitlines()) == 1
