"""The commands that look after the run store."""

import pytest

from bipcore.cli.main import main
from tests.helpers.folders import model_folder
from tests.helpers.targets import state

SETTINGS = ("--samples", "4", "--seq-len", "16")


@pytest.fixture
def model(tmp_path) -> str:
    return str(model_folder(tmp_path / "model"))


def test_cache_list_names_what_is_stored(run, run_json, model, cache):
    run("score", model, *SETTINGS)
    found = run_json("cache", "list")
    assert found["root"] == str(cache.root)
    assert sorted(entry["kind"] for entry in found["entries"]) == ["scores", "statistics"]
    assert all(entry["digest"] in run("cache", "list") for entry in found["entries"])


def test_cache_size_adds_up(run, run_json, model, cache):
    run("score", model, *SETTINGS)
    found = run_json("cache", "size")
    assert found["bytes"] == sum(entry.size for entry in cache.entries())
    assert found["bytes"] == found["scores"] + found["statistics"]


def test_cache_clear_empties_the_store(run, run_json, model, cache):
    run("score", model, *SETTINGS)
    size = run_json("cache", "size")["bytes"]
    assert run_json("cache", "clear")["freed"] == size
    assert list(cache.entries()) == []


def test_cache_clear_can_be_told_one_kind(run, run_json, model, cache):
    run("score", model, *SETTINGS)
    run_json("cache", "clear", "--kind", "scores")
    assert [entry.kind for entry in cache.entries()] == ["statistics"]


def test_an_empty_cache_can_be_listed_measured_and_cleared(run_json):
    assert run_json("cache", "list")["entries"] == []
    assert run_json("cache", "size")["bytes"] == 0
    assert run_json("cache", "clear")["freed"] == 0


@pytest.mark.parametrize("command", ["list", "size", "clear", "clear --kind scores"])
def test_a_folder_that_is_no_store_is_refused_and_left_alone(
    tmp_path, capsys, monkeypatch, command
):
    (tmp_path / "home" / "scores" / "0123456789abcdef").mkdir(parents=True)
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "home"))
    before = state(tmp_path)

    assert main(["cache", *command.split()]) == 2

    assert "home is no run store of bipcore, since it holds" in capsys.readouterr().err
    assert state(tmp_path) == before


def test_nothing_is_written_to_a_folder_that_is_no_store(tmp_path, capsys, monkeypatch, model):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("years of work")
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "home"))
    before = state(tmp_path)

    assert main(["score", model, *SETTINGS]) == 2

    assert "(thesis.tex); set BIPCORE_CACHE to a folder" in capsys.readouterr().err
    assert state(tmp_path) == before


@pytest.mark.parametrize("name", ["~nosuchuser/x", "x" * 5000])
def test_a_name_that_no_folder_can_have_is_one_sentence(capsys, monkeypatch, name):
    monkeypatch.setenv("BIPCORE_CACHE", name)
    assert main(["cache", "list"]) == 2
    assert "The folder BIPCORE_CACHE" in capsys.readouterr().err


def test_a_damaged_entry_is_listed_as_one(run, run_json, model, cache):
    run("score", model, *SETTINGS)
    entry = next(cache.entries())
    (entry.path / "spec.json").write_text("[]")

    assert "damaged" in run("cache", "list")
    assert len(run_json("cache", "list")["entries"]) == 2
    run("cache", "clear")
    assert list(cache.entries()) == []
