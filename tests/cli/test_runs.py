"""The command runs: the table, as text, JSON and CSV, and what it refuses."""

import csv
import json
import os
import re

import pytest

from bipcore.cli.main import main
from bipcore.store.runs import RunStore
from tests.helpers.folders import edit_json, model_folder
from tests.helpers.runs import measured
from tests.helpers.tiny import one_thread as one_thread


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    measured(RunStore(root / "store"), model_folder(root / "model"))
    return root


@pytest.fixture
def listed(filled, run, monkeypatch):
    """Runs the command on the filled store."""
    monkeypatch.setenv("BIPCORE_CACHE", str(filled / "store"))
    return lambda *words: run("runs", *words)


def _json(listed, *words):
    return json.loads(listed(*words, "--json"))["runs"]


def test_the_table_says_kind_model_settings_figure_and_state(listed, filled):
    said = listed()
    for words in ("Sweep point", "Evaluation", "Scores", "perplexity", "finished", "Settings"):
        assert words in said
    assert str(filled / "model") in said
    assert said.count("Sweep point") == 3


def test_json_and_csv_say_the_same_runs(listed, tmp_path):
    runs = _json(listed, "--csv", tmp_path / "runs.csv")
    with (tmp_path / "runs.csv").open() as opened:
        rows = list(csv.DictReader(opened))
    assert [(row["kind"], row["name"]) for row in rows] == [(r["kind"], r["name"]) for r in runs]
    for row, run in zip(rows, runs, strict=True):
        assert int(row["bytes"]) == run["size"]
        assert row["settings"] == run["words"]
        first = next(iter(run["figures"].values()), None)
        assert row["value"] == ("" if first is None else str(first))
    listed("--csv", tmp_path / "runs.csv")  # a table of ours is written anew


def test_options_choose_and_sort(listed, filled):
    points = _json(listed, "--kind", "points", "--sort", "figure")
    values = [run["figures"]["perplexity"] for run in points]
    assert len(values) == 3
    assert values == sorted(values)
    assert _json(listed, "--model", "another") == []
    assert len(_json(listed, "--model", filled / "model")) == len(_json(listed))
    sizes = [run["size"] for run in _json(listed, "--sort", "size")]
    assert sizes == sorted(sizes, reverse=True)


def test_a_damaged_entry_is_a_line_of_the_table(run, run_json, cache, tmp_path):
    measured(cache, model_folder(tmp_path / "model"))
    entry = next(cache.entries())
    edit_json(entry.path / "spec.json", spec={})
    assert len(re.findall(r"\bdamaged\b", run("runs"))) == 1
    (damaged,) = (one for one in run_json("runs")["runs"] if one["state"] == "damaged")
    assert damaged["words"] == damaged["fault"] == "it is another result"


def test_an_empty_store_is_said_to_be(run, run_json, cache):
    assert f"{cache.root} holds nothing of that" in run("runs")
    assert run_json("runs")["runs"] == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--kind", "perplexity"], "There is no kind 'perplexity' of results; there are "),
        (["--kind", ""], "There is no kind ''"),
        (["--sort", "name"], "Runs are sorted by when, size, figure, not by 'name'."),
        (["--csv", "{folder}/no/runs.csv"], "there is no folder"),
        (["--csv", "{folder}"], "is a folder; give the name of a file."),
        (["--csv", "{folder}/thesis.csv"], "thesis.csv is not a table of bipcore"),
    ],
)
def test_what_cannot_be_is_one_sentence(capsys, cache, tmp_path, words, said):
    (tmp_path / "thesis.csv").write_text("chapter,words\n")
    assert main(["runs", *(word.format(folder=tmp_path) for word in words)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert (tmp_path / "thesis.csv").read_text() == "chapter,words\n"


def test_a_folder_that_is_no_store_is_refused_and_left_alone(capsys, monkeypatch, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path))
    assert main(["runs"]) == 2
    assert "is no run store of bipcore" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["thesis.tex"]
