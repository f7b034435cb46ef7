"""The list of runs: what it says of results that were really made, and of what is not whole."""

import json
import shutil

import pytest

from bipcore.errors import InputError
from bipcore.kinds import KINDS
from bipcore.specs import CalibrationSpec
from bipcore.specs.texts import calibration_of
from bipcore.store.kinds import digest
from bipcore.store.resume import Checkpoints, StoredJournal
from bipcore.store.runs import RunStore
from bipcore.studies.run_words import WORDS, figure_words
from bipcore.studies.runs import (
    DAMAGED,
    FINISHED,
    LEFT_OVER,
    OUTDATED,
    SORTS,
    STATES,
    UNFINISHED,
    list_runs,
)
from tests.helpers.damage import DAMAGE
from tests.helpers.folders import edit_json, model_folder
from tests.helpers.runs import everything, model_spec
from tests.helpers.tiny import one_thread as one_thread


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return model_folder(tmp_path_factory.mktemp("runs") / "model")


@pytest.fixture(scope="module")
def made(tmp_path_factory, folder):
    """The root of a store with a result of nearly every kind."""
    store = RunStore(tmp_path_factory.mktemp("made") / "store")
    everything(store, folder)
    return store


@pytest.fixture
def full(made, tmp_path):
    """A copy of it, which a test may change."""
    shutil.copytree(made.root, tmp_path / "store")
    return RunStore(tmp_path / "store")


def listed(store, **how):
    return list_runs(store, KINDS, **how)


def of(store, kind, **settings):
    """The runs of a kind that have these settings."""
    wanted = settings.items()
    return [run for run in listed(store, kind=kind) if wanted <= run.settings.items()]


def test_every_kind_has_words():
    assert WORDS.keys() == {kind.name for kind in KINDS}
    titles = [words.title for words in WORDS.values()]
    assert len(set(titles)) == len(titles)


def test_everything_in_the_store_is_listed_once_with_all_its_bytes(made, folder):
    runs = listed(made)
    names = sorted(entry.path.name for run in runs for entry in run.entries)
    assert names == sorted(entry.digest for entry in made.entries())
    files = [file for file in made.root.glob("*/*/**/*") if file.is_file()]
    assert sum(run.size for run in runs) == sum(file.stat().st_size for file in files)
    assert {run.model for run in runs} == {str(folder)}
    assert all(run.state == FINISHED and run.words and not run.fault for run in runs)
    json.dumps([run.to_dict() for run in runs], allow_nan=False)


def test_a_figure_is_the_one_that_was_measured_with_the_settings_of_its_plan(made, folder):
    (run,) = of(made, "evaluations", state="pruned", criterion="llm-bip", metric="perplexity")
    data = json.loads((run.entry.path / "data.json").read_text())
    assert run.figures == {"perplexity": data["perplexity"]}
    assert run.figure == f"perplexity {data['perplexity']:,.2f}"
    assert run.words == (
        "llm-bip at 30 %, builtin, window 128, 256 tokens, calibrated on builtin, 4 × 16 tokens, "
        "seed 0"
    )
    assert run.settings["realised"] == pytest.approx(0.3, abs=0.01)
    assert run.seconds > 0
    (dense,) = of(made, "evaluations", state="dense", metric="kl")
    assert dense.words == "dense, builtin, window 128, 256 tokens"
    assert dense.figure == "KL divergence 0.0000"
    assert dense.costs["parameters"] > run.costs["parameters"]


def test_both_figures_of_a_pass_say_how_long_the_pass_took(made):
    first, second = of(made, "evaluations", state="dense")
    assert first.seconds == second.seconds > 0


def test_a_sweep_point_says_its_text_and_what_it_costs(made):
    (point,) = of(made, "points", sparsity=0.5)
    assert point.words == "magnitude at 50 %, builtin, window 128, 256 tokens"
    data = json.loads((point.entry.path / "data.json").read_text())
    assert (point.seconds, point.costs["macs"]) == (data["seconds"], data["macs"])
    assert list(point.figures.values()) == list(data["perplexity"].values())


def test_a_recovery_says_what_was_trained_and_its_last_look(made):
    (run,) = listed(made, kind="recoveries")
    assert run.words.startswith("llm-bip at 30 %")
    assert "text, lora, trained on builtin, 4 × 16 tokens, rate 0.0001, rank 4" in run.words
    data = json.loads((run.entry.path / "data.json").read_text())
    looks = {step["step"]: step["validation"] for step in data["history"]}
    assert run.figures["held-out loss"] == looks[data["chosen"]]
    (tuned,) = of(made, "evaluations", state="recovered")
    assert "recovered, llm-bip at 30 %" in tuned.words
    (errors,) = listed(made, kind="reconstruction")
    blocks = json.loads((errors.entry.path / "data.json").read_text())["accumulated"]
    assert errors.figures["mean error"] == pytest.approx(sum(blocks) / len(blocks))


def test_a_search_is_one_run_and_goes_on_while_it_has_no_scores(full, folder):
    (search,) = listed(full, kind="steps")
    assert search.state == FINISHED
    assert search.settings["steps"] == len(search.entries) > 1
    scores = of(full, "scores", criterion="blockpruner")
    assert full.delete([run.entry for run in scores]) == scores[0].size
    assert [run.state for run in listed(full, kind="steps")] == [UNFINISHED]
    journal = StoredJournal(full, {"model": model_spec(folder).identity(), "criterion": "sleb"})
    journal.add([1, "ffn", 2.0])
    assert len(listed(full, kind="steps")) == 2


def test_a_checkpoint_is_unfinished(full, folder):
    identity = {"model": model_spec(folder).identity(), "plan": None}
    Checkpoints(full, identity).keep(7, {}, {"history": []})
    (run,) = listed(full, kind="checkpoints")
    assert (run.state, run.words, run.seconds) == (UNFINISHED, "dense, stopped at step 7", None)


@pytest.mark.parametrize("file", ["spec.json", "data.json"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_damaged_is_said_to_be_and_can_be_deleted(full, damage, file):
    (run,) = of(full, "evaluations", state="dense", metric="kl")
    DAMAGE[damage](run.entry.path / file)
    found = [run for run in listed(full) if run.state == DAMAGED]
    assert [(one.kind, one.name) for one in found] == [("evaluations", run.name)]
    assert found[0].fault == found[0].words != ""
    before = len(list(full.entries()))
    full.delete(found[0].entries)
    assert not run.entry.path.exists()
    assert len(list(full.entries())) == before - 1


def test_entries_of_before_there_was_more_to_say_are_listed_with_what_they_say(full):
    for entry in list(full.entries()):
        manifest = json.loads((entry.path / "spec.json").read_text())
        del manifest["made"]
        (entry.path / "spec.json").write_text(json.dumps(manifest))
    runs = listed(full)
    assert {run.state for run in runs} == {FINISHED}
    assert all(run.words for run in runs)
    pruned = [run for run in runs if run.settings.get("state") == "pruned"]
    assert any(run.words.startswith("pruned, plan ") for run in pruned)
    assert {run.seconds for run in runs if run.kind == "evaluations"} == {None}
    assert all(run.when == run.entry.written for run in runs if len(run.entries) == 1)
    assert [run.figure for run in runs if run.kind == "points"] != [""] * 3


JUNK = (None, 3, "x", [], {"at": "x", "seconds": "long", "cost": 3, "plan": [1], "texts": "no"})


@pytest.mark.parametrize("junk", JUNK)
def test_what_somebody_wrote_into_a_manifest_breaks_no_list(full, junk):
    for entry in list(full.entries()):
        edit_json(entry.path / "spec.json", made=junk, made_digest=digest(junk))
    runs = listed(full)
    assert {run.state for run in runs} == {FINISHED}
    json.dumps([run.to_dict() for run in runs], allow_nan=False)


def test_another_version_and_what_is_set_aside_or_left_over_have_states_of_their_own(full):
    versions = [kind for kind in KINDS if kind.name != "points"]
    states = {run.state for run in list_runs(full, versions) if run.kind == "points"}
    assert states == {OUTDATED}
    first, second = (run.entry.path for run in listed(full, kind="points")[:2])
    first.rename(f"{first}.damaged-0123456789ab")
    second.rename(f"{second}.tmp-0123456789ab")
    found = sorted(run.state for run in listed(full, kind="points"))
    assert found == sorted([DAMAGED, FINISHED, LEFT_OVER])
    assert set(found) <= STATES.keys()


def test_runs_are_filtered_and_sorted(made, folder):
    assert {run.kind for run in listed(made, kind="points")} == {"points"}
    assert listed(made, model="another") == []
    assert len(listed(made, model=str(folder))) == len(listed(made))
    times = [run.when for run in listed(made, sort="when")]
    assert times == sorted(times, reverse=True)
    sizes = [run.size for run in listed(made, sort="size")]
    assert sizes == sorted(sizes, reverse=True)
    figures = [run.figures for run in listed(made, kind="points", sort="figure")]
    values = [one["perplexity"] for one in figures]
    assert values == sorted(values)
    every = [bool(run.figures) for run in listed(made, sort="figure")]
    assert every == sorted(every, reverse=True)


def test_a_kind_or_a_sort_that_there_is_not_is_refused(made):
    with pytest.raises(InputError, match="no kind 'perplexity' of results; there are models"):
        listed(made, kind="perplexity")
    with pytest.raises(InputError, match=f"sorted by {', '.join(SORTS)}, not by 'name'"):
        listed(made, sort="name")


def test_where_there_is_no_store_there_are_no_runs(tmp_path):
    assert listed(RunStore(tmp_path / "nowhere")) == []


def test_deleting_takes_what_is_named_and_nothing_else(full, tmp_path):
    scores = [run for run in listed(full) if run.kind == "scores"]
    other = RunStore(tmp_path / "other")
    assert other.delete([scores[0].entry]) == 0
    assert scores[0].entry.path.exists()
    before = {entry.path for entry in full.entries()}
    freed = full.delete([run.entry for run in scores])
    assert freed == sum(run.size for run in scores)
    assert {entry.path for entry in full.entries()} == before - {r.entry.path for r in scores}
    assert full.delete([run.entry for run in scores]) == 0


def test_a_figure_is_said_with_its_name_and_as_many_digits_as_its_metric_has():
    assert figure_words("perplexity", 1234.567) == "perplexity 1,234.57"
    assert figure_words("kl, builtin@16", 0.5) == "KL divergence, builtin@16 0.5000"
    assert figure_words("held-out KL", 1.23456) == "held-out KL 1.235"


@pytest.mark.parametrize("spec", [CalibrationSpec(), CalibrationSpec("a, b.txt", 3, 5, 7)])
def test_the_words_of_a_calibration_set_give_it_back(spec):
    assert calibration_of(str(spec)) == spec
    assert calibration_of(f"{spec}, no beginning-of-text token") == spec
    assert calibration_of("none") is None
