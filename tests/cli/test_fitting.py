"""A command that cannot fit ends before it loads anything, with what would fit, or goes on where it
is told to."""

import pytest

from bipcore.cli.main import main
from tests.helpers.folders import model_folder
from tests.helpers.tasks import write_rows

SMALL = ("--samples", "2", "--seq-len", "16", "--device", "cpu")
TEXT = ("--window", "16", "--max-tokens", "32")
COMMANDS = {
    "score": (),
    "prune": ("--output", "out", *TEXT),
    "evaluate": TEXT,
    "reconstruct": TEXT,
    "sweep": ("--sparsities", "0.2", "--sizes", "2", "--criteria", "magnitude", *TEXT),
    "zero-shot": ("--tasks", "piqa", "--limit", "2"),
    "recover": ("--train-samples", "4", "--train-seq-len", "16", "--validation", "2", *TEXT),
}


@pytest.fixture
def model(tmp_path, monkeypatch, cache):
    """A model on a machine that has nothing free by its own account."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIPCORE_DATA", str(write_rows(tmp_path / "data")))
    monkeypatch.setattr("bipcore.evaluation.estimating.free_on", lambda device: 2**20)
    return str(model_folder(tmp_path / "model"))


def _said(command: str, model: str) -> list[str]:
    given = [word for word in SMALL if command != "sweep" or word not in ("--samples", "2")]
    return [command, model, *given, *COMMANDS[command]]


@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_fit_is_refused_before_anything_is_loaded(
    command, model, monkeypatch, capsys, tmp_path
):
    def fail(*args, **options):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("bipcore.pipeline.workbench.load_found", fail)
    assert main(_said(command, model)) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "This takes about" in said
    assert " 1 MiB are free" in said
    assert said.endswith("To go on all the same, give --memory at least that much.")
    assert not (tmp_path / "out").exists()


def test_one_goes_on_by_saying_how_much_memory_there_is(model):
    assert main([*_said("score", model), "--memory", "1GiB"]) == 0


def test_what_is_stored_is_read_whatever_is_free(model, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("bipcore.evaluation.estimating.free_on", lambda device: 2**30)
        assert main(_said("score", model)) == 0
    assert main(_said("score", model)) == 0
