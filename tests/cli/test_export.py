"""Exports of either tier on the command line."""

import pytest

from tests.helpers.folders import model_folder

CALIBRATION = ("--device", "cpu", "--samples", 4, "--seq-len", 16)
EVALUATION = ("--window", 16, "--max-tokens", 64)


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model"))


@pytest.mark.parametrize(("options", "tier"), [((), 1), (("--protect-first", 1), 2)])
def test_prune_says_the_tier(run, run_json, model, tmp_path, options, tier):
    out = ("--output", tmp_path / "out", "--no-evaluate")
    command = ("prune", model, *CALIBRATION, "--sparsity", 0.5, *options, *out)
    assert run_json(*command)["tier"] == tier
    assert ["tier", str(tier)] in [line.split() for line in run(*command).splitlines()]


def test_evaluate_reads_an_export_of_tier_2_and_runs_none_of_its_code(run_json, model, tmp_path):
    out = tmp_path / "out"
    options = (*CALIBRATION, *EVALUATION, "--protect-first", 1)
    pruned = run_json("prune", model, *options, "--output", out)
    assert pruned["tier"] == 2
    (out / "modeling_pruned.py").write_text("raise SystemExit('it was run')")
    found = run_json("evaluate", out, "--device", "cpu", *EVALUATION)
    assert found["dense"]["perplexity"] == pytest.approx(pruned["perplexity_after"], rel=1e-5)
