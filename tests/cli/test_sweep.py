"""The command sweep: what it prints and writes, its YAML file, killed and started again."""

import csv
import json
import signal
import time
from pathlib import Path

import pytest

from bipcore.cli.main import main
from bipcore.errors import InputError
from bipcore.settings import join_list, parse_list
from bipcore.studies import sweep as sweeps
from tests.helpers.cli import Call, refusal, run_all, start
from tests.helpers.folders import model_folder

SMALL = ("--sizes", "4", "--seq-len", "16", "--window", "16", "--max-tokens", "64")
TWO = ("--criteria", "llm-bip,magnitude", "--sparsities", "0.2,0.5")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("sweep") / "model"))


def test_a_sweep_is_one_object_of_points_and_their_summary(run_json, model):
    found = run_json("sweep", model, *TWO, *SMALL, "--seeds", "0,1")
    assert found["spec"]["criteria"] == ["llm-bip", "magnitude"]
    assert found["spec"]["texts"] == [{"text": "builtin", "window": 16, "max_tokens": 64}]
    assert [(p["label"], p["sparsity"], p["seed"]) for p in found["points"]] == [
        ("dense", 0.0, None),
        ("magnitude", 0.2, None),
        ("magnitude", 0.5, None),
        ("llm-bip", 0.2, 0),
        ("llm-bip", 0.5, 0),
        ("llm-bip", 0.2, 1),
        ("llm-bip", 0.5, 1),
    ]
    means = {(row["label"], row["sparsity"]): row for row in found["summary"]}
    values = [found["points"][i]["perplexity"]["builtin"] for i in (3, 5)]
    assert means["llm-bip", 0.2]["perplexity_builtin"] == pytest.approx(sum(values) / 2)
    assert means["magnitude", 0.2]["perplexity_builtin_std"] is None


def test_a_point_of_a_sweep_is_what_evaluate_says(run_json, model):
    found = run_json("sweep", model, "--criteria", "wanda", "--sparsities", "0.5", *SMALL)
    settings = ("--samples", "4", *SMALL[2:], "--criterion", "wanda", "--sparsity", "0.5")
    expected = run_json("evaluate", model, *settings)
    assert found["points"][1]["perplexity"]["builtin"] == expected["pruned"]["perplexity"]
    assert found["points"][0]["perplexity"]["builtin"] == expected["dense"]["perplexity"]


def test_plan_options_reach_every_point(run_json, model):
    options = ("--unit", "none", "--protect-first", "1", "--compensation", "bias")
    found = run_json("sweep", model, "--criteria", "wanda", *SMALL, *options)
    plan = found["spec"]["plan"]
    assert (plan["unit"], plan["protect_first"], plan["compensation"]) == ("none", 1, "bias")


def test_a_sweep_prints_a_table_and_what_could_not_be_done(run, model):
    out = run("sweep", model, "--criteria", "magnitude", "--sparsities", "0.5,0.99", *SMALL)
    assert "Sweep of" in out
    assert "Perplexity, builtin" in out
    assert "Not done" in out
    assert "magnitude at 99%" in out
    assert "…" not in out


def test_points_go_to_csv_and_charts_to_a_report(run, model, tmp_path):
    files = ("--csv", tmp_path / "f.csv", "--report", tmp_path / "out.html")
    run("sweep", model, *TWO, *SMALL, *files, "--profile", "--presets", "paper")
    with (tmp_path / "f.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["label"] for row in rows].count("paper") == 2
    assert rows[-1]["samples"] == "4"
    assert all(float(row["latency"]) > 0 and float(row["perplexity_builtin"]) for row in rows)
    text = (tmp_path / "out.html").read_text()
    assert "Pruning sweep of" in text
    assert "Peak memory" in text


def test_a_yaml_file_says_the_same_as_options(run_json, model, tmp_path):
    (tmp_path / "sweep.yaml").write_text(
        f"""# all of it
model: {model}
criteria: [llm-bip, magnitude]
sparsities: [0.2, 0.5]
seeds: 0
sizes: [4]
seq-len: 16
window: 16
max_tokens: 64
profile: false
"""
    )
    assert run_json("sweep", "--spec", tmp_path / "sweep.yaml") == run_json(
        "sweep", model, *TWO, *SMALL
    )


def test_what_is_on_the_command_line_counts_more_than_the_file(run_json, model, tmp_path):
    file = tmp_path / "sweep.yaml"
    file.write_text("model: /nowhere\ncriteria: magnitude\nsparsities: 0.3\nmax-tokens: 32\n")
    found = run_json("sweep", model, "--spec", file, "--sparsities", "0.5", *SMALL[:-2])
    assert [point["sparsity"] for point in found["points"]] == [0.0, 0.5]
    assert found["spec"]["texts"][0]["max_tokens"] == 32


@pytest.mark.parametrize(
    ("text", "kind", "values"),
    [
        ("0.1, 0.2", float, (0.1, 0.2)),
        ("3", int, (3,)),
        ("a,b-c", str, ("a", "b-c")),
        ("  ", int, ()),
    ],
)
def test_lists_are_words_with_commas_between(text, kind, values):
    assert parse_list(text, kind, "things") == values
    assert parse_list(join_list(values), kind, "things") == values


@pytest.mark.parametrize(
    ("text", "kind", "said"),
    [
        ("0.1,,0.2", float, "'' is not a number"),
        ("1,2.5", int, "'2.5' is not a whole number"),
        ("a,", str, "'' is not a word"),
    ],
)
def test_a_list_with_something_else_in_it_is_refused(text, kind, said):
    with pytest.raises(InputError, match=f"In the list of things, .*{said}"):
        parse_list(text, kind, "things")


YAML = {
    "unknown-key": "criterion: llm-bip\n",
    "spec-in-it": "spec: other.yaml\n",
    "wrong-type": "window: many\n",
    "a-list-for-a-number": "window: [1, 2]\n",
    "a-mapping": "criteria: {a: b}\n",
    "nothing-there": "criteria:\n",
    "half-a-number": "max_tokens: 1.5\n",
    "not-a-mapping": "- a\n- b\n",
    "empty-file": "",
    "not-yaml": "criteria: [llm-bip\nwindow: 3\n",
    "binary-file": b"\xff\xfe\x00\x01",
}
OPTIONS = {
    "missing-file": ["--spec", "nowhere.yaml"],
    "folder-as-file": ["--spec", "."],
    "empty-criteria": ["--criteria", ""],
    "unknown-criterion": ["--criteria", "llm-bip,no-such"],
    "unknown-preset": ["--presets", "no-such"],
    "no-sparsities": ["--sparsities", " "],
    "a-word-as-sparsity": ["--sparsities", "0.1,abc"],
    "a-hole-in-the-list": ["--sparsities", "0.1,,0.2"],
    "sparsity-one": ["--sparsities", "0.1,1"],
    "sparsity-nan": ["--sparsities", "nan"],
    "negative-seed": ["--seeds", "0,-1"],
    "half-a-seed": ["--seeds", "0.5"],
    "no-samples": ["--sizes", "0"],
    "no-text": ["--texts", ""],
    "missing-text": ["--texts", "builtin,nowhere.txt"],
    "unknown-allocation": ["--allocation", "no-such"],
    "window-beyond": ["--window", "129"],
    "negative-tokens": ["--max-tokens", "-1"],
    "all-points-impossible": ["--sparsities", "0.99"],
    "csv-nowhere": ["--csv", "nowhere/f.csv"],
    "report-nowhere": ["--report", "nowhere/out.html"],
    "report-a-folder": ["--report", "."],
}
SAYS = {
    "unknown-key": "names a setting 'criterion'; there are allocation, beginning, calibration",
    "wrong-type": "--window",
    "a-mapping": "the setting 'criteria' is a value or a list of values",
    "not-a-mapping": "does not hold settings",
    "not-yaml": "is not YAML that can be read, line 2",
    "missing-file": "nowhere.yaml cannot be read: No such file",
    "unknown-criterion": "no criterion 'no-such'",
    "a-word-as-sparsity": "'abc' is not a number",
    "missing-text": "no text called 'nowhere.txt'",
    "all-points-impossible": "No point could be computed. The sparsity asks",
    "report-nowhere": "there is no folder nowhere",
}


@pytest.fixture(scope="module")
def ended(model, tmp_path_factory):
    """How each wrong call ended, in a folder of its own."""
    root, calls = tmp_path_factory.mktemp("errors"), {}
    for case in [*YAML, *OPTIONS]:
        folder = root / case
        folder.mkdir()
        words = [*SMALL, "--criteria", "magnitude", *OPTIONS.get(case, ())]
        if case in YAML:
            words = ["--spec", "sweep.yaml"]
            text = YAML[case]
            (folder / "sweep.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
        env = {"BIPCORE_CACHE": str(root / "stores" / case), "BIPCORE_DATA": ""}
        calls[case] = Call(["sweep", model, *words], str(folder), env)
    return root, run_all(calls)


@pytest.mark.parametrize("case", [*YAML, *OPTIONS])
def test_what_cannot_be_done_is_one_sentence_and_status_2(ended, case):
    root, results = ended
    assert SAYS.get(case, "") in refusal(results[case])
    left = {path.name for path in (root / case).iterdir()}
    assert left == ({"sweep.yaml"} if case in YAML else set())


def _points(store: Path) -> dict[str, int]:
    """The finished points and when they were written."""
    return {
        path.name: (path / "data.json").stat().st_mtime_ns
        for path in (store / "points").glob("*")
        if ".tmp-" not in path.name
    }


def test_a_killed_sweep_goes_on_and_repeats_no_finished_point(
    run_json, cache, model, tmp_path, monkeypatch
):
    arguments = ["sweep", model, "--criteria", "llm-bip,wanda,wanda-sp,flap,random"]
    arguments += ["--sparsities", "0.1,0.2,0.3,0.4,0.5", "--seeds", "0,1"]
    arguments += ["--sizes", "4", "--seq-len", "16", "--window", "128", "--max-tokens", "2048"]
    process = start(Call(arguments, str(tmp_path), {"BIPCORE_CACHE": str(cache.root)}))
    limit = time.monotonic() + 200
    while len(_points(cache.root)) < 5:
        assert not process.ended, "the sweep ended before it could be killed"
        assert time.monotonic() < limit
        time.sleep(0.01)
    process.kill()
    assert process.wait().status == -signal.SIGKILL
    before = _points(cache.root)
    computed, original = [], sweeps._Measure._compute
    monkeypatch.setattr(
        sweeps._Measure, "_compute", lambda m, task: computed.append(task) or original(m, task)
    )
    resumed = run_json(*arguments)
    assert 5 <= len(before) < len(resumed["points"]) == 51
    assert len(computed) == 51 - len(before)
    assert before.items() <= _points(cache.root).items()
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "fresh"))
    whole = run_json(*arguments)
    for found in (resumed, whole):
        for row in (*found["points"], *found["summary"]):
            del row["seconds"]
    assert json.dumps(resumed) == json.dumps(whole)


def test_an_interrupted_sweep_says_that_what_was_stored_is_kept(capsys, cache, model, monkeypatch):
    def interrupt(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweeps._Measure, "_compute", interrupt)
    assert main(["sweep", model]) == 130
    assert "what was stored before is kept" in capsys.readouterr().err
