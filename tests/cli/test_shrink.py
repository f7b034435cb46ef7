"""`shrink`: from a target to an export and a report, and the same by the steps that it names."""

import contextlib
import itertools
import shlex
from pathlib import Path

import pytest

from bipcore.cli.main import main
from bipcore.errors import Cancelled
from bipcore.export.export import load_pruned
from bipcore.progress import Tracker
from bipcore.pruning.plan import load_plan
from tests.helpers.folders import model_folder
from tests.helpers.tiny import one_thread as one_thread

WORDS = ("--samples", "4", "--seq-len", "32", "--train-seq-len", "32", "--tokens", "200")
WORDS += ("--validation", "2", "--validate-every", "2", "--search", "5", "--search-samples", "2")
WORDS += ("--window", "32", "--max-tokens", "96", "--target", "params=80%")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("models") / "mistral", "mistral"))


def _weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_it_prunes_trains_exports_and_reports(run_json, run, model, tmp_path):
    found = run_json("shrink", model, *WORDS, "--output", tmp_path / "out")
    plan = load_plan(tmp_path / "out")
    assert plan.pruned_shape.parameters <= 0.8 * plan.shape.parameters
    assert plan.spec["target"] == "params=80%"
    assert found["candidates"].keys() == {"flap", "obs-fisher"}
    assert plan.spec["criterion"] == min(found["candidates"], key=found["candidates"].get)
    assert plan.spec["search"]["divergence"] <= min(found["candidates"].values())
    assert found["recovered"]["kl"] > 0 == found["dense"]["kl"]
    loaded, _ = load_pruned(tmp_path / "out")
    assert sum(p.numel() for p in loaded.parameters()) == plan.pruned_shape.parameters
    report = (tmp_path / "out.html").read_text()
    assert found["report"] == str(tmp_path / "out.html")
    for words in ("What came of it", "How the widths were chosen", "Training", "after 5 trials"):
        assert words in report
    lines = [line.replace("\\\n", " ") for line in found["commands"]]
    before = _weights(tmp_path / "out")
    for line, place in zip(lines, ("plan.json", "out"), strict=True):
        words = shlex.split(line)[1:]
        words[words.index("--output") + 1] = str(tmp_path / f"again-{place}")
        if "--plan" in words:
            words[words.index("--plan") + 1] = str(tmp_path / "again-plan.json")
        run(*words)
    assert _weights(tmp_path / "again-out") == before


def test_without_training_it_is_the_pruned_model(run, model, tmp_path):
    words = [word if word != "200" else "0" for word in WORDS]
    words[words.index("--search") + 1] = "0"
    said = run("shrink", model, *words, "--output", tmp_path / "out", "--report", tmp_path / "r")
    assert "recovered" not in said
    assert "Exported" in said
    assert "Training" not in (tmp_path / "r").read_text()
    again = run("shrink", model, *words, "--output", tmp_path / "out", "--report", tmp_path / "r")
    assert "Exported" in again


def test_stopped_anywhere_it_ends_with_the_same_export(run, cache, model, tmp_path, monkeypatch):
    """After 3, 8, 13, ... reports of progress, until it is through."""
    real, left, stops = Tracker.__call__, [0], itertools.count(3, 5)

    def stopping(self, fraction: float, message: str = "") -> None:
        left[0] -= 1
        if not left[0]:
            raise Cancelled
        real(self, fraction, message)

    words = [str(word) for word in ("shrink", model, *WORDS)]
    monkeypatch.setattr(Tracker, "__call__", stopping)
    for left[0] in stops:
        assert not (tmp_path / "stopped").exists()
        with contextlib.suppress(Cancelled):
            assert main([*words, "--output", str(tmp_path / "stopped")]) == 0
            break
    assert next(stops) > 20
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "another"))
    left[0] = 0
    run(*words, "--output", tmp_path / "whole")
    assert _weights(tmp_path / "stopped") == _weights(tmp_path / "whole")
    plans = [load_plan(tmp_path / name) for name in ("stopped", "whole")]
    assert plans[0].blocks == plans[1].blocks


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--target", "params=1%"), "is below the smallest plan"),
        (("--target", "params=200%"), "is not below what the dense model has"),
        (("--target", "size=3"), "There is no target of the kind"),
        (("--tokens", "5"), "is less than one sample of 32"),
        (("--tokens", "900000000"), "ask for fewer or shorter samples"),
        (("--text", "nowhere.txt"), "nowhere.txt"),
        (("--search-samples", "99999999"), "ask for fewer or shorter samples"),
    ],
)
def test_what_cannot_be_is_one_sentence_and_leaves_nothing(
    capsys, cache, model, tmp_path, words, said
):
    assert main(["shrink", model, *WORDS, *words, "--output", str(tmp_path / "out")]) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1
    assert said in errors[0]
    assert not list(tmp_path.glob("out*"))


def test_a_report_in_the_way_is_not_overwritten(capsys, cache, model, tmp_path):
    (tmp_path / "out.html").write_text("mine")
    assert main(["shrink", model, *WORDS, "--output", str(tmp_path / "out")]) == 2
    assert "is not a report of bipcore" in capsys.readouterr().err
    assert (tmp_path / "out.html").read_text() == "mine"
