"""``--metrics``: what the commands print and write where more is measured than perplexity."""

import csv

import pytest

from bipcore.cli.main import main
from bipcore.evaluation.metrics import METRICS
from tests.helpers.folders import model_folder
from tests.helpers.metrics import NAME, watch_divergence
from tests.helpers.passes import counted_passes
from tests.helpers.tiny import one_thread as one_thread

TEXT = ("--window", "32", "--max-tokens", "96")
SMALL = ("--samples", "4", "--seq-len", "16", "--sparsity", "0.5", *TEXT)
BOTH = ("--metrics", f"{NAME},perplexity")
SWEEP = ("--sizes", "4", "--seq-len", "16", "--criteria", "wanda", "--sparsities", "0.5", *TEXT)
TRAIN = ("--train-text", "builtin", "--train-samples", "4", "--train-seq-len", "16")


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model"))


@pytest.fixture
def measured(monkeypatch) -> list[float]:
    return watch_divergence(monkeypatch)


def test_evaluate_says_every_metric_of_every_model(run, run_json, model, measured):
    alone = run_json("evaluate", model, *SMALL)
    where = ["text", "window", "max_tokens", "tokens", "beginning"]
    assert list(alone["dense"]) == ["perplexity", *where]
    found = run_json("evaluate", model, *SMALL, *BOTH)
    for name, value in (("dense", 0.0), ("pruned", measured[1])):
        assert found[name] == alone[name] | {NAME: value}
    with counted_passes() as passes:
        table = run("evaluate", model, *SMALL, *BOTH)
    assert passes == []
    assert "Perplexity, KL divergence on builtin, window 32" in table
    (header,) = (line for line in table.splitlines() if "Model" in line)
    assert header.split() == [
        "Model",
        "Perplexity",
        "KL",
        "divergence,",
        "nats",
        "a",
        "token",
        "Tokens",
    ]
    (row,) = (line.split() for line in table.splitlines() if "pruned" in line)
    figures = f"{found['pruned']['perplexity']:.2f}", f"{measured[1]:.4f}"
    assert row == ["pruned", *figures, "96"]


def test_the_table_of_perplexity_alone_is_as_it_always_was(run, run_json, model):
    table = run("evaluate", model, *TEXT)
    value = run_json("evaluate", model, *TEXT)["dense"]["perplexity"]
    assert table.split()[:5] == ["Perplexity", "on", "builtin,", "window", "32,"]
    words = [line.split() for line in table.splitlines()]
    assert ["Model", "Perplexity", "Tokens"] in words
    assert ["dense", f"{value:.2f}", "96"] in words


def test_prune_says_and_exports_them_before_and_after(run_json, model, tmp_path, measured):
    out = tmp_path / "out"
    found = run_json("prune", model, *SMALL, *BOTH, "--output", out)
    figures = [name for name in found if name.endswith(("_before", "_after"))]
    assert figures[-4:] == [
        "perplexity_before",
        "perplexity_after",
        f"{NAME}_before",
        f"{NAME}_after",
    ]
    assert [found[f"{NAME}_before"], found[f"{NAME}_after"]] == measured
    card = (out / "README.md").read_text()
    where = "first 96 tokens, window 32, no beginning-of-text token"
    assert f"{where} | 0.0000 | {measured[1]:.4f} |" in card


def test_recover_says_them_of_all_three(run_json, run, model, measured):
    settings = ("--batch-size", "2", "--validation", "2", "--rank", "2")
    found = run_json("recover", model, *SMALL, *TRAIN, *settings, *BOTH)
    assert [found[name][NAME] for name in ("dense", "pruned", "recovered")] == measured
    assert "KL divergence, nats a token" in run("recover", model, *SMALL, *TRAIN, *settings, *BOTH)
    assert len(measured) == 3


def test_sweep_prints_and_writes_them(run, run_json, model, tmp_path, measured):
    found = run_json("sweep", model, *SWEEP, *BOTH, "--csv", tmp_path / "f.csv")
    assert [point[NAME]["builtin"] for point in found["points"]] == measured
    assert found["spec"]["texts"][0]["metrics"] == [NAME, "perplexity"]
    assert found["summary"][1][f"{NAME}_builtin"] == measured[1]
    with (tmp_path / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row[f"{NAME}_builtin"]) for row in rows] == measured
    assert [float(row["perplexity_builtin"]) for row in rows] == [
        point["perplexity"]["builtin"] for point in found["points"]
    ]
    report = tmp_path / "out.html"
    printed = run("sweep", model, *SWEEP, *BOTH, "--report", report)
    assert "KL divergence, nats a token, builtin" in printed
    assert "KL divergence on builtin" in report.read_text()
    assert len(measured) == 2


def test_a_sweep_of_perplexity_alone_prints_and_writes_what_it_always_did(
    run_json, model, tmp_path
):
    found = run_json("sweep", model, *SWEEP, "--csv", tmp_path / "f.csv")
    assert found["spec"]["texts"] == [{"text": "builtin", "window": 32, "max_tokens": 96}]
    what = ["label", "criterion", "sparsity", "seed", "samples"]
    counts = ["realised", "realised_total", "parameters", "macs", "seq_len"]
    costs = ["latency", "tokens_per_second", "peak_memory", "seconds"]
    assert list(found["points"][0]) == [*what, *counts, "perplexity", *costs, "error"]
    header = (tmp_path / "f.csv").read_text().splitlines()[0]
    assert header.split(",") == [*what, *counts, *costs, "perplexity_builtin", "error"]


def test_a_yaml_file_may_name_them(run_json, model, tmp_path, measured):
    (tmp_path / "sweep.yaml").write_text(f"metrics: [perplexity, {NAME}]\n")
    found = run_json("sweep", model, *SWEEP, "--spec", tmp_path / "sweep.yaml")
    assert found["points"][1][NAME]["builtin"] == measured[1] > 0


@pytest.mark.parametrize("command", ["evaluate", "prune", "recover", "sweep"])
@pytest.mark.parametrize(
    ("metrics", "said"),
    [
        ("perplexity,luck", f"There is no metric 'luck'; there are {', '.join(METRICS)}."),
        ("", "The list of metrics is empty; give at least one."),
    ],
)
def test_an_unknown_metric_is_one_sentence(run, capsys, cache, tmp_path, command, metrics, said):
    more = {"prune": ("--output", str(tmp_path / "out")), "recover": ("--sparsity", "0.5")}
    status = main([command, "/nowhere", "--metrics", metrics, *more.get(command, ())])
    printed = capsys.readouterr()
    assert (status, printed.out, printed.err.strip()) == (2, "", f"error: {said}")


def test_reconstruct_has_no_metrics_to_choose_from(run_json, capsys, model):
    found = run_json("reconstruct", model, *SMALL)
    assert found["evaluation"] == {"text": "builtin", "window": 32, "max_tokens": 96}
    assert main(["reconstruct", model, "--metrics", "perplexity"]) == 2
    assert "metrics" in capsys.readouterr().err
