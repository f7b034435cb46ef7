"""`benchmarks/budget.py` measures rows over seeds and says what came of them."""

import importlib
import json
import sys
from pathlib import Path

import pytest

from tests.helpers.folders import model_folder
from tests.helpers.tiny import one_thread  # noqa: F401

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
SMALL = "--calibration builtin --samples 4 --seq-len 32 --train-samples 4 --held-out 2"
SMALL += " --texts builtin:128 --window 32 --device cpu --sparsity 0.3"
TRAINED = {"train": "blocks", "batch_size": 2, "learning_rate": 1e-3}
ROWS = [
    {"name": "as it is"},
    {"name": "nothing trained", "training": TRAINED | {"learning_rate": 1e-12}},
    {"name": "cannot be", "plan": {"protect_first": 99}},
]


@pytest.fixture
def figures(monkeypatch, tmp_path, capsys) -> tuple[dict, str]:
    """What the script found of `ROWS` over two seeds, and what it printed."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    budget = importlib.import_module("budget")
    model, rows, found = (tmp_path / name for name in ("model", "rows.json", "found.json"))
    rows.write_text(json.dumps(ROWS))
    said = ["--model", str(model_folder(model, "llama")), "--file", str(rows)]
    said += ["--seeds", "0", "1", "--json", str(found), *SMALL.split()]
    monkeypatch.setattr(sys, "argv", ["budget.py", *said])
    budget.main()
    return json.loads(found.read_text()), capsys.readouterr().out


def test_rows_are_measured_over_seeds_and_training_by_nothing_changes_nothing(figures):
    found, printed = figures
    results = {(one["row"]["name"], one["seed"]): one for one in found["found"]}
    assert len(results) == 6
    for seed in (0, 1):
        plain, trained = (results[name, seed] for name in ("as it is", "nothing trained"))
        for text in ("builtin", "held out"):
            assert plain[text] == pytest.approx(trained[text], rel=1e-4)
            assert plain[text]["kl"] > 0
        assert trained["tokens"] == 4 * 32
        assert "99" in results["cannot be", seed]["refused"]
    dense = found["dense"]["held out"]
    assert (dense["kl"], dense["agreement"]) == (0, 1)
    lines = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
    assert [line[0].strip("| ") for line in lines[1:]] == [row["name"] for row in ROWS]
    mean = (results["as it is", 0]["builtin"]["kl"] + results["as it is", 1]["builtin"]["kl"]) / 2
    assert lines[1][4].startswith(f"{mean:.2f} (")
