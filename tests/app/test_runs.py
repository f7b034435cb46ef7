"""The page Runs: what is stored, opened, compared, deleted and drawn."""

import json
import shutil

import pytest

from bipcore.criteria.base import SCORES
from bipcore.kinds import KINDS
from bipcore.pipeline.pipeline import Pipeline, score_identity
from bipcore.store.kinds import digest
from bipcore.store.resume import Checkpoints
from bipcore.store.runs import RunStore
from bipcore.studies.runs import list_runs
from tests.helpers.apptest import charts, read, settle, start
from tests.helpers.folders import edit_json, model_folder
from tests.helpers.runs import everything
from tests.helpers.tiny import one_thread as one_thread
from ui import jobs, links
from ui.forms import last_forms
from ui.jobs import worker
from ui.openings import Opening, kept_plans, opening
from ui.studies import last_studies

PAGE = "pages/runs.py"


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with a result of nearly every kind, and the folder of its model beside it."""
    root = tmp_path_factory.mktemp("runs")
    everything(RunStore(root / "store"), model_folder(root / "model"))
    return root


@pytest.fixture
def full(made, tmp_path, monkeypatch) -> RunStore:
    """A copy of that store, which the pages use."""
    shutil.copytree(made / "store", tmp_path / "store")
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "store"))
    return RunStore()


@pytest.fixture(autouse=True)
def _a_new_server(monkeypatch):
    monkeypatch.setattr(jobs, "_worker", None)  # it works on the store that it first finds
    links.forget_all()
    yield
    last_forms().clear()
    last_studies().clear()
    for job in worker().active():
        job.cancel()


def table(app):
    return app.dataframe[0]


def ticked(app, *rows: int):
    """The page with these rows of the table ticked."""
    selection = {"rows": list(rows), "columns": [], "cells": []}
    app.session_state[table(app).key] = {"selection": selection}
    app.run()
    assert not app.exception, app.exception
    return app


def row_of(app, **cells: str) -> int:
    """The number of the first row with these cells; of Settings the beginning counts."""
    rows = table(app).value.astype(str).to_dict("records")
    return next(
        number
        for number, row in enumerate(rows)
        if all(row[name].startswith(cell) for name, cell in cells.items())
    )


def keys(app) -> set[str]:
    return {button.key for button in app.button}


def notes(app) -> str:
    boxes = (*app.caption, *app.warning, *app.success, *app.info, *app.error)
    return read(" ".join(box.value for box in boxes))


def test_an_empty_store_is_a_sentence_and_a_link_to_the_first_step(monkeypatch, tmp_path):
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path / "nothing"))
    app = start(PAGE)
    assert not app.exception
    assert "Nothing has been computed yet" in notes(app)
    assert len(app.dataframe) == charts(app) == 0
    assert any("The first step" in text.value for text in app.markdown)
    assert not worker().active()


def test_a_folder_that_is_no_store_is_an_error_box(monkeypatch, tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    monkeypatch.setenv("BIPCORE_CACHE", str(tmp_path))
    app = start(PAGE)
    assert not app.exception
    assert "is no run store of bipcore" in notes(app)


def test_the_table_has_every_run_and_nothing_is_computed_for_it(full):
    app = start(PAGE)
    runs = list_runs(full, KINDS)
    assert table(app).value["Settings"].tolist() == [run.words for run in runs]
    assert table(app).value["Size"].tolist() == [run.size for run in runs]
    assert f"{len(runs)} runs" in notes(app)
    assert charts(app) == 1
    assert "runs-delete" not in keys(app)
    assert not worker().active()


def test_filters_leave_the_rows_of_what_is_chosen(full):
    app = start(PAGE)
    everything_there = len(table(app).value)
    app.multiselect(key="runs-kind").set_value(["Sweep point", "Scores"]).run()
    assert set(table(app).value["Kind"]) == {"Sweep point", "Scores"}
    assert f"{len(table(app).value)} of {everything_there} runs" in notes(app)
    app.multiselect(key="runs-state").set_value(["finished"]).run()
    app.multiselect(key="runs-model").set_value(app.multiselect(key="runs-model").options).run()
    assert not app.exception
    assert set(table(app).value["Kind"]) == {"Sweep point", "Scores"}


def test_one_run_is_shown_whole(full):
    app = start(PAGE)
    ticked(app, row_of(app, Kind="Sweep point", Settings="magnitude at 50 %"))
    settings = dict(app.dataframe[1].value.itertuples(index=False, name=None))
    assert settings["sparsity"] == "0.5"
    assert settings["criterion"] == "magnitude"
    figures = app.dataframe[2].value[""].tolist()
    assert figures[0] == "perplexity"
    assert "parameters" in figures


def test_two_runs_are_compared_by_what_differs_and_their_figures(full):
    app = start(PAGE)
    rows = [
        row_of(app, Kind="Sweep point", Settings=f"magnitude at {share} %") for share in (20, 50)
    ]
    ticked(app, *sorted(rows))
    settings, figures = (app.dataframe[index].value for index in (1, 2))
    assert settings[""].tolist() == ["sparsity"]
    assert sorted(settings.iloc[0, 1:]) == ["0.2", "0.5"]
    assert figures[""].tolist()[0] == "perplexity"
    assert len(figures.columns) == 3
    assert "runs-open" not in keys(app)


def test_delete_asks_first_and_then_says_what_is_gone(full):
    app = start(PAGE)
    row = row_of(app, Kind="Edited plan")
    run = list_runs(full, KINDS)[row]
    ticked(app, row)
    app.button(key="runs-delete").click().run()
    assert run.entry.path.exists()
    assert "Delete 1 run (Edited plan)" in notes(app)
    assert "gone for good" in notes(app)
    app.button(key="runs-keep").click().run()
    assert "runs-delete-sure" not in keys(app)
    assert run.entry.path.exists()
    app.button(key="runs-delete").click().run()
    app.button(key="runs-delete-sure").click().run()
    assert not app.exception
    assert "Deleted 1 run" in notes(app)
    assert not run.entry.path.exists()
    assert "Edited plan" not in set(table(app).value["Kind"])


def test_other_rows_are_not_deleted_by_a_question_about_those_before(full):
    app = start(PAGE)
    ticked(app, 0)
    app.button(key="runs-delete").click().run()
    ticked(app, 1)
    assert "runs-delete-sure" not in keys(app)


def test_damaged_entries_are_rows_and_can_be_deleted(full):
    first, second = (run.entry for run in list_runs(full, KINDS, kind="points")[:2])
    edit_json(first.path / "spec.json", spec=[])
    (second.path / "data.json").write_text("x")
    app = start(PAGE)
    damaged = [row for row, state in enumerate(table(app).value["State"]) if state == "damaged"]
    assert len(damaged) == 2
    ticked(app, damaged[0])
    assert "computed again where it is asked for" in notes(app)
    assert "What is damaged cannot be opened" in notes(app)
    ticked(app, *damaged)
    app.button(key="runs-delete").click().run()
    app.button(key="runs-delete-sure").click().run()
    assert not first.path.exists()
    assert not second.path.exists()
    assert "damaged" not in set(table(app).value["State"])


def openings(store) -> dict[tuple[str, str], Opening | str]:
    """Where every run is shown, by its kind and words."""
    runs = list_runs(store, KINDS)
    return {(run.kind, run.words): opening(run, kept_plans(runs)) for run in runs}


def test_every_run_has_a_page_or_a_reason(full, made):
    found = openings(full)
    pages = {kind: where.page for (kind, _), where in found.items() if isinstance(where, Opening)}
    assert pages == {
        "scores": "pages/scores.py",
        "evaluations": "pages/recover.py",
        "recoveries": "pages/recover.py",
        "points": "pages/sweep.py",
        "plans": "pages/plan.py",
    }
    for (kind, _), where in found.items():
        if isinstance(where, str):
            assert where.endswith(".")
        elif kind != "plans":
            assert where.settings.model == str(made / "model")


def test_the_settings_that_are_opened_give_the_digest_of_what_is_opened(full):
    """What the page then asks for is the very result: none is computed again."""
    for run in list_runs(full, KINDS):
        where = opening(run, {})
        if not isinstance(where, Opening):
            continue
        settings = where.settings
        if run.kind == "scores":
            identity = score_identity(settings.score_spec, settings.plan_spec)
            assert full.path(SCORES, identity).name == run.name
        elif run.kind == "recoveries":
            plan = Pipeline(full).plan(settings.score_spec, settings.plan_spec)
            names = [one.name for one in Pipeline(full).recoveries(settings.model_spec, plan)]
            assert names == [run.name]


def test_open_goes_to_the_page_and_shows_what_was_stored(full):
    app = start("app.py", **model_address(full))
    settle(app)
    app.switch_page(PAGE).run()
    row = row_of(app, Kind="Evaluation", Settings="recovered")
    ticked(app, row)
    before = {entry.path for entry in full.entries()}
    opened(app, "pages/recover.py", "Recover")
    settle(app)
    assert app.slider(key="set-percent").value == 30
    frame = app.dataframe[-1].value
    assert frame["Window"].tolist() == [128]
    assert float(frame["Recovered"][0].replace(",", "")) > 0
    assert {entry.path for entry in full.entries()} == before


def opened(app, page: str, title: str) -> None:
    """Press Open, and be on the page with this title, as a browser then is."""
    app.button(key="runs-open").click().run()
    assert [one.value for one in app.title] == [title]
    app.switch_page(page).run()


def model_address(store) -> dict[str, str]:
    model = next(run.model for run in list_runs(store, KINDS, kind="scores"))
    return {"model": model, "samples": "4", "seq_len": "16"}


def test_a_sweep_point_fills_in_the_form_that_measured_it(full):
    app = start("app.py", **model_address(full))
    app.switch_page(PAGE).run()
    ticked(app, row_of(app, Kind="Sweep point", Settings="magnitude at 20 %"))
    opened(app, "pages/sweep.py", "Sweep")
    before = {entry.path for entry in full.entries()}
    app.button(key="sweep-start").click().run()
    settle(app)
    assert app.dataframe[-1].value["label"].tolist() == ["dense", "magnitude"]
    assert {entry.path for entry in full.entries()} == before


def test_a_stopped_training_is_opened_with_its_settings(full):
    (run,) = list_runs(full, KINDS, kind="recoveries")
    facts = json.loads((run.entry.path / "spec.json").read_text())
    Checkpoints(full, facts["spec"], lambda: facts["made"]).keep(3, {}, {"history": []})
    (stopped,) = list_runs(full, KINDS, kind="checkpoints")
    where = opening(stopped, {})
    assert where.page == "pages/recover.py"
    assert where.form["recovery-form"]["samples"] == 4
    assert where.settings.sparsity == 0.3


def test_a_plan_that_the_sidebar_cannot_say_is_no_guess(full):
    (run,) = list_runs(full, KINDS, kind="recoveries")
    made = json.loads((run.entry.path / "spec.json").read_text())["made"]
    edited, options = {"edited": ["x"]}, {"options": {"a": 1}}
    for change in ({"sparsity": 0.125}, edited, {"allocation": "budget"}, options):
        plan = made["plan"] | {"spec": made["plan"]["spec"] | change}
        changed = made | {"plan": plan}
        edit_json(run.entry.path / "spec.json", made=changed, made_digest=digest(changed))
        (changed,) = list_runs(full, KINDS, kind="recoveries")
        assert isinstance(opening(changed, {}), str)
        kept = opening(changed, kept_plans(list_runs(full, KINDS)))
        assert kept.settings.source  # the plan itself is kept: no words are needed


def test_the_chart_follows_the_choice_of_the_group_and_the_cost(full):
    app = start(PAGE)
    groups = app.selectbox(key="tradeoffs-group")
    assert "perplexity on builtin, window 128, 256 tokens (5 points)" in groups.value
    app.selectbox(key="tradeoffs-cost").set_value("macs").run()
    assert not app.exception
    chart = json.loads(app.get("plotly_chart")[0].proto.spec)
    assert chart["layout"]["xaxis"]["title"]["text"].startswith("MACs")
    names = [trace["name"] for trace in chart["data"]]
    assert names[0] == "dense"
    assert "LLM-BIP, recovered" in names
    groups.set_value(groups.options[1]).run()
    assert not app.exception
