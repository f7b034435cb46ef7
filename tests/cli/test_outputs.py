"""Where commands write: regular files and folders of ours, known before anything is computed."""

import os

import pandas as pd
import pytest

from bipcore.cli.main import main
from bipcore.cli.outputs import is_report, is_table
from bipcore.studies.reproduction.spec import load_reproduction
from bipcore.views.reconstruction import reconstruction_frame
from bipcore.views.recovery import history_frame
from bipcore.views.report import write_report
from bipcore.views.reproduction_tables import comparison_frame
from bipcore.views.runs import runs_frame
from bipcore.views.sweep_tables import sweep_frame
from bipcore.views.zero_shot import results_frame
from tests.helpers.folders import model_folder
from tests.helpers.targets import SPECIAL, state

SETTINGS = ("--criterion", "magnitude")
COMMANDS = {
    "score": "score {model} --csv {target}",
    "compare": "compare {model} --csv {target}",
    "reconstruct": "reconstruct {model} --csv {target}",
    "zero-shot": "zero-shot {model} --csv {target}",
    "sweep": "sweep {model} --csv {target}",
    "sweep-report": "sweep {model} --report {target}",
    "recover": "recover {model} --csv {target}",
    "reproduce": "reproduce table1 --model {model} --csv {target}",
    "reproduce-report": "reproduce table1 --model {model} --report {target}",
    "reproduce-dry": "reproduce table1 --model {model} --dry-run --csv {target}",
    "plan-make": "plan make {model} --output {target}",
}
"""Commands that write a file."""

FOLDERS = {
    "prune": "prune {model} --output {target}",
    "recover-output": "recover {model} --output {target}",
}
"""Commands that write a folder."""

NO_MODEL = "/no/such/model"


def _refused(capsys, words: str, **names: object) -> str:
    """The sentence of a command that is refused."""
    assert main([word.format(**names) for word in words.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    return printed.err


@pytest.mark.timeout(20)
@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("command", COMMANDS | FOLDERS)
def test_a_target_that_is_no_file_is_refused_before_the_model_is_looked_for(
    tmp_path, capsys, cache, command, kind
):
    SPECIAL[kind](tmp_path / "x")
    before = state(tmp_path)

    said = _refused(capsys, (COMMANDS | FOLDERS)[command], model=NO_MODEL, target=tmp_path / "x")

    assert "x is a " in said
    assert state(tmp_path) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_is_not_ours_is_not_overwritten(tmp_path, capsys, cache, command):
    (tmp_path / "thesis.csv").write_text("chapter,words\n1,10000\n")
    target = tmp_path / "thesis.csv"

    said = _refused(capsys, COMMANDS[command], model=NO_MODEL, target=target)

    assert "thesis.csv is not a " in said
    assert "--force" in said
    assert target.read_text() == "chapter,words\n1,10000\n"


@pytest.mark.parametrize("command", COMMANDS)
def test_force_is_all_that_it_takes(tmp_path, capsys, cache, command):
    (tmp_path / "x.csv").write_text("chapter,words\n1,10000\n")

    words = COMMANDS[command] + " --force"
    said = _refused(capsys, words, model=NO_MODEL, target=tmp_path / "x.csv")

    assert "x.csv" not in said  # something else is wrong now


def test_a_table_of_ours_is_overwritten_and_a_link_to_it_followed(tmp_path, run):
    model = model_folder(tmp_path / "model")
    (tmp_path / "link.csv").symlink_to("scores.csv")
    for _ in range(2):
        run("score", model, *SETTINGS, "--csv", tmp_path / "link.csv")

    assert os.readlink(tmp_path / "link.csv") == "scores.csv"
    assert set(pd.read_csv(tmp_path / "scores.csv")["kind"]) == {"head", "kv_group", "channel"}


def test_a_table_that_is_not_ours_is_overwritten_by_force(tmp_path, run):
    (tmp_path / "x.csv").write_text("chapter,words\n")
    run(
        "score", model_folder(tmp_path / "model"), *SETTINGS, "--csv", tmp_path / "x.csv", "--force"
    )
    assert is_table(tmp_path / "x.csv")


def test_a_table_and_a_report_in_one_file_are_refused(tmp_path, capsys, cache):
    (tmp_path / "link").symlink_to("x")
    words = "sweep {model} --csv {folder}/x --report {folder}/link"
    assert "are the same file" in _refused(capsys, words, model=NO_MODEL, folder=tmp_path)


@pytest.mark.parametrize(
    "frame",
    [
        history_frame([]),
        sweep_frame([]),
        results_frame({}),
        reconstruction_frame({}),
        reconstruction_frame({}, {}),
        comparison_frame(load_reproduction("table1"), []),
        comparison_frame(load_reproduction("figure3"), []),
        runs_frame([]),
    ],
    ids=["history", "sweep", "zero-shot", "errors", "bounds", "table1", "figure3", "runs"],
)
def test_every_table_is_known_by_its_first_line(tmp_path, frame):
    frame.to_csv(tmp_path / "x.csv", index=False)
    assert is_table(tmp_path / "x.csv")


def test_the_tables_of_scores_and_of_a_comparison_are_known(tmp_path, run):
    model = model_folder(tmp_path / "model")
    few = ("--samples", "2", "--seq-len", "8")
    for words in (
        ("score", model, *SETTINGS, "--sparsity", 0.3),
        ("compare", model, "--criteria", "magnitude,random", *few),
    ):
        run(*words, "--csv", tmp_path / "x.csv")
        assert is_table(tmp_path / "x.csv")


def test_a_report_is_known_by_its_beginning(tmp_path):
    write_report(tmp_path / "x.html", "A title", [])
    (tmp_path / "y.html").write_text("<!DOCTYPE html>\n<title>mine</title>")

    assert is_report(tmp_path / "x.html")
    assert not is_report(tmp_path / "y.html")
