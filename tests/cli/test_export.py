"""Exports of either tier on the command line."""

from pathlib import Path

import pytest

from bipcore.cli.main import main
from tests.helpers.folders import model_folder
from tests.helpers.passes import counted_passes

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


def test_prune_says_types_and_sizes_before_and_after(run_json, model, tmp_path):
    command = ("prune", model, *CALIBRATION, "--sparsity", 0.5, "--no-evaluate")
    found = run_json(*command, "--output", tmp_path / "out", "--save-dtype", "bfloat16")
    assert (found["dtype_before"], found["dtype"]) == ("float32", "bfloat16")
    assert found["bytes"] == sum(
        file.stat().st_size for file in (tmp_path / "out").iterdir() if file.name != "bipcore.json"
    )
    assert found["bytes_before"] == sum(f.stat().st_size for f in Path(model).iterdir())


REFUSED = {
    "stock": (("--sparsity", 0.5, "--protect-first", 1, "--format", "stock"), "different widths"),
    "nothing": (("--sparsity", 0.05, "--round-to", 96, "--unit", "none"), "removes nothing"),
    "type": (("--sparsity", 0.5, "--save-dtype", "int8"), "not written as 'int8'"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_prune_refuses_what_cannot_be_exported_before_it_scores(capsys, model, tmp_path, case):
    options, sentence = REFUSED[case]
    words = ("prune", model, *CALIBRATION, *options, "--output", tmp_path / "out")
    with counted_passes() as passes:
        assert main([str(word) for word in words]) == 2
    assert sentence in capsys.readouterr().err
    assert (passes, (tmp_path / "out").exists()) == ([], False)


def test_a_plan_that_removes_nothing_is_warned_of(capsys, model):
    words = ("score", model, *CALIBRATION, "--sparsity", 0.05, "--round-to", 96, "--unit", "none")
    assert main([str(word) for word in words]) == 0
    assert "warning: The plan removes nothing" in capsys.readouterr().err
