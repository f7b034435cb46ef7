"""The command ``reproduce``: what there is to do, what came of it, and bad input."""

import json
from pathlib import Path

import pandas as pd
import pytest

from bipcore.cli.main import main
from bipcore.models.loading import DEMO
from bipcore.pipeline.pipeline import Pipeline
from bipcore.store.runs import RunStore
from bipcore.studies.reproduction.rows import measured_rows
from tests.helpers.cli import Call, refusal, run_all
from tests.helpers.folders import model_folder, tree
from tests.helpers.papers import quick_tasks, texts_folder
from tests.helpers.passes import counted_passes
from tests.helpers.tiny import one_thread as one_thread

LLAMA = "huggyllama/llama-7b"


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No hub, no texts, and a working folder of its own."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.delenv("BIPCORE_DATA", raising=False)
    monkeypatch.setattr("bipcore.pipeline.workbench.load_found", None)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


@pytest.fixture
def work(monkeypatch, tmp_path, cache):
    """A working folder, short texts, tasks that take no time, and a tiny model beside it."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("BIPCORE_DATA", str(texts_folder(tmp_path / "texts")))
    monkeypatch.setattr(Pipeline, "zero_shot", quick_tasks)
    model_folder(tmp_path / "model")
    return tmp_path / "work"


def reproduced(capsys, *words: object) -> tuple[str, str]:
    """What a command that has to succeed printed on stdout and on stderr."""
    status = main(["reproduce", *map(str, words)])
    printed = capsys.readouterr()
    assert status == 0, printed.err
    return printed.out, printed.err


def figure(figures: list[dict], row: str, column: str) -> dict:
    return next(one for one in figures if (one["row"], one["column"]) == (row, column))


def test_a_dry_run_of_table_5_counts_exactly_without_a_network(run_json, offline):
    found = run_json("reproduce", "table5", "--model", LLAMA, "--dry-run")
    cells = {
        (row, column): figure(found["figures"], row, column)
        for row in ("dense", "20 %", "50 %")
        for column in ("params_billion", "macs_giga")
    }
    dense = cells["dense", "params_billion"]
    assert dense["measured"] == pytest.approx(6.738, abs=0.001)
    assert dense["published"] == 6.74
    assert cells["dense", "macs_giga"]["measured"] == pytest.approx(3451.99, rel=1e-3)
    assert cells["20 %", "macs_giga"]["published"] == 2737.99
    assert cells["50 %", "params_billion"]["published"] == 3.49
    for cell in cells.values():
        assert cell["difference"] == pytest.approx(cell["measured"] - cell["published"])
        assert abs(cell["difference"]) < 0.015 * cell["published"]
    assert tree(offline) == []


def test_a_dry_run_prints_the_work_the_estimate_and_the_published_rows(run, offline):
    printed = run("reproduce", "table5", "--model", LLAMA, "--dry-run")
    for said in ("What there is to do", "Roughly", "3,451.54", "2,737.99", "5.443", "+1.37%"):
        assert said in printed
    assert "measured" not in [word for line in printed.splitlines() for word in line.split()[:2]]


@pytest.mark.parametrize("name", ["table1", "table4", "figure2", "figure3", "figure4"])
def test_a_dry_run_of_the_demo_model_needs_nothing(run, offline, cache, name):
    with counted_passes() as passes:
        printed = run("reproduce", name, "--model", DEMO, "--limit", 50, "--dry-run")
    assert passes == []
    assert "Roughly" in printed
    assert "calibration on 50 samples" in printed.lower() or name == "figure4"
    assert tree(offline) == []
    assert list(cache.entries()) == []


def test_a_dry_run_writes_its_figures_where_asked(run, offline):
    run("reproduce", "table1", "--model", DEMO, "--dry-run", "--csv", "rows.csv")
    rows = pd.read_csv("rows.csv")
    assert rows["measured"].isna().all()
    assert rows[rows["column"] == "average"]["published"].notna().sum() == 21


def test_published_and_measured_stand_in_the_table_and_a_report_is_left(work, capsys):
    words = ["--methods", "magnitude", "--sparsities", "0.5", "--limit", "3"]
    out, err = reproduced(capsys, "table1", "--model", work.parent / "model", *words)
    assert err.startswith("Roughly ")
    assert len(err.strip().splitlines()) == 1
    for said in ("785.10 ?", "39.88", "magnitude, 50 %, tuned", "PIQA 3 of 1,000 (acc_norm)"):
        assert said in out
    assert "It is not the benchmark" in out
    assert tree(work) == ["reproduce-table1-model.html"]
    page = Path("reproduce-table1-model.html").read_text()
    for said in ("<script>", "785.10 ?", "not the benchmark", "Settings", "Versions", "2,048"):
        assert said in page
    assert "http://" not in page.split("</script>")[-1]


def test_json_is_one_object_with_every_figure_and_csv_has_the_same(work, capsys):
    words = ["--methods", "magnitude", "--sparsities", "0.5", "--limit", "3", "--no-tuned"]
    files = ["--report", "a.html", "--csv", "a.csv"]
    model = work.parent / "model"
    out, _ = reproduced(capsys, "table1", "--model", model, *words, *files, "--json")
    found = json.loads(out)
    assert found["limited"] is True
    assert found["report"] == "a.html"
    line = figure(found["figures"], "magnitude, 50 %", "average")
    assert (line["published"], line["difference"]) == (39.88, None)
    assert (line["size"], line["total"]) == (21, 7000)
    assert len(pd.read_csv("a.csv")) == len(found["figures"]) == 2 * 10
    assert tree(work) == ["a.csv", "a.html"]


def test_a_second_run_reads_the_rows_of_the_first(work, capsys, cache):
    words = ["--methods", "magnitude", "--sparsities", "0.5", "--limit", "3", "--no-tasks"]
    model = work.parent / "model"
    first, _ = reproduced(capsys, "table1", "--model", model, *words)
    assert len(measured_rows(cache, "table1")[0].rows) == 3
    with counted_passes() as passes:
        second, _ = reproduced(capsys, "table1", "--model", model, *words)
    assert passes == []
    assert second == first


def test_calibration_options_are_taken_over(work, capsys):
    words = ["--calibration", "builtin", "--samples", "2", "--seq-len", "16", "--limit", "3"]
    model = work.parent / "model"
    out, _ = reproduced(capsys, "figure3", "--model", model, *words, "--json")
    calibration = json.loads(out)["spec"]["calibration"]
    wanted = {"source": "builtin", "samples": 2, "seq_len": 16, "seed": 0}
    assert calibration == wanted | {"text_field": "", "beginning": "none"}


CASES = {
    "unknown-name": "reproduce table9 --model {model}",
    "limit-zero": "reproduce table1 --model {model} --limit 0",
    "limit-negative": "reproduce table1 --model {model} --limit -3",
    "unknown-method": "reproduce table1 --model {model} --methods llm-bip,no-such",
    "sparsity-one": "reproduce table1 --model {model} --sparsities 1.0",
    "samples-none": "reproduce table1 --model {model} --samples 0",
    "missing-model": "reproduce table1 --model /nowhere/model --limit 3",
    "unreachable-weights": "reproduce table1 --limit 3",
    "unknown-device": "reproduce table5 --model {model} --device quantum --dry-run",
    "report-in-no-folder": "reproduce table1 --model {model} --limit 3 --report no/where.html",
    "report-a-folder": "reproduce table1 --model {model} --limit 3 --report full",
    "csv-in-no-folder": "reproduce table1 --model {model} --limit 3 --csv no/where.csv",
    "report-of-a-dry-run": "reproduce table1 --model {model} --dry-run --report a.html",
    "calibration-missing": "reproduce table1 --model {model} --calibration nowhere.txt",
}
SAYS = {
    "unknown-name": "no reproduction 'table9'; there are table1",
    "limit-zero": "at least 1 row of each task, not 0",
    "unknown-method": "no criterion 'no-such'",
    "missing-model": "/nowhere/model does not exist",
    "unreachable-weights": "huggyllama/llama-7b",
    "report-in-no-folder": "there is no folder no",
    "report-of-a-dry-run": "leave --report out",
    "calibration-missing": "nowhere.txt",
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The folder in which all cases ran, and how each ended."""
    root = tmp_path_factory.mktemp("errors")
    model = model_folder(root / "model")
    data = str(texts_folder(root / "texts"))
    calls = {}
    for case, words in CASES.items():
        (root / "runs" / case / "full").mkdir(parents=True)
        env = {"BIPCORE_CACHE": str(root / "stores" / case), "BIPCORE_DATA": data}
        calls[case] = Call(words.format(model=model).split(), str(root / "runs" / case), env)
    return root, run_all(calls)


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_sentence_and_status_2_and_leaves_nothing(ended, case):
    root, results = ended
    assert SAYS.get(case, "") in refusal(results[case])
    assert tree(root / "runs" / case) == ["full"]
    assert all(entry.whole for entry in RunStore(root / "stores" / case).entries())
