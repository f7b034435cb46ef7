"""The commands that look after the run store."""

import pytest

from tests.helpers.folders import model_folder

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
