"""Reconstruction errors of plans: measured side by side, and each one only once."""

import json
from dataclasses import replace

import pytest

from bipcore.cli.main import main
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.evaluation.metrics import cut_windows, load_test_tokens
from bipcore.evaluation.reconstruction import reconstruction_errors
from bipcore.pipeline.kept import Kept
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.slicing import apply_plan
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.runs import RunStore
from tests.helpers.folders import byte_model, model_folder
from tests.helpers.passes import counted_passes

TEXT = EvaluationSpec(window=32, max_tokens=96)
BATCH = CalibrationSpec(samples=4, seq_len=16)


@pytest.fixture
def model(tmp_path) -> ModelSpec:
    return ModelSpec(str(model_folder(tmp_path / "model")), device="cpu")


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


@pytest.fixture
def plans(pipeline, model) -> dict[str, PruningPlan]:
    return {
        name: pipeline.plan(ScoreSpec(model, BATCH, name), PlanSpec(sparsity=0.4))
        for name in ("llm-bip", "random", "magnitude")
    }


@pytest.fixture
def measured(monkeypatch) -> list[list[str]]:
    """The names of what each call of `reconstruction_errors` measured."""
    calls: list[list[str]] = []

    def spy(dense, pruned, *args, **options):
        calls.append(list(pruned))
        return reconstruction_errors(dense, pruned, *args, **options)

    monkeypatch.setattr("bipcore.pipeline.measuring.reconstruction_errors", spy)
    return calls


def test_errors_are_those_of_the_function(pipeline, model, plans):
    found = pipeline.reconstruction(model, plans, TEXT)
    dense, tokenizer = pipeline.model(model)
    tokens = load_test_tokens("builtin", tokenizer, max_tokens=96)
    windows = CalibrationSet.from_tokens(cut_windows(dense, tokens, 32))
    pruned = {name: apply_plan(dense, plan) for name, plan in plans.items()}
    expected = reconstruction_errors(dense, pruned, windows, batch_size=64)
    assert found == expected
    assert list(found) == list(plans)


def test_all_plans_are_measured_together_and_only_once(pipeline, model, plans, measured):
    first = pipeline.reconstruction(model, plans, TEXT)
    assert measured == [list(plans)]
    with counted_passes() as passes:
        second = Pipeline(RunStore(pipeline.store.root)).reconstruction(model, plans, TEXT)
    assert (passes, len(measured)) == ([], 1)
    assert first == second


def test_reading_stored_errors_loads_no_model(pipeline, model, plans, monkeypatch):
    first = pipeline.reconstruction(model, plans, TEXT)
    monkeypatch.setattr("bipcore.pipeline.workbench.load_found", None)
    assert Pipeline(pipeline.store).reconstruction(model, plans, TEXT) == first


def test_only_what_is_missing_is_measured(pipeline, model, plans, measured):
    pipeline.reconstruction(model, {"one": plans["random"]}, TEXT)
    found = pipeline.reconstruction(model, plans, TEXT)
    assert measured == [["one"], ["llm-bip", "magnitude"]]
    assert list(found) == list(plans)


def test_the_name_of_a_plan_does_not_count(pipeline, model, plans, measured):
    named = pipeline.reconstruction(model, {"one": plans["random"]}, TEXT)["one"]
    assert pipeline.reconstruction(model, {"two": plans["random"]}, TEXT) == {"two": named}
    assert len(measured) == 1


def test_nothing_to_measure_is_no_error(pipeline, model):
    assert pipeline.reconstruction(model, {}, TEXT) == {}


@pytest.mark.parametrize("change", [{"window": 16}, {"max_tokens": 64}])
def test_other_tokens_are_measured_anew(pipeline, model, plans, measured, change):
    first = pipeline.reconstruction(model, plans, TEXT)
    second = pipeline.reconstruction(model, plans, replace(TEXT, **change))
    assert len(measured) == 2
    assert first != second


def test_a_compensated_plan_is_measured_compensated(pipeline, model, plans):
    settings = PlanSpec(sparsity=0.4, compensation="least-squares")
    plan = pipeline.plan(ScoreSpec(model, BATCH), settings)
    found = pipeline.reconstruction(model, {"cut": plans["llm-bip"], "refitted": plan}, TEXT)
    assert plan.blocks == plans["llm-bip"].blocks
    assert found["refitted"] != found["cut"]


def test_an_edited_model_is_measured_anew(pipeline, model, plans, measured):
    pipeline.reconstruction(model, plans, TEXT)
    byte_model(seed=1).save_pretrained(model.name)
    pipeline.reconstruction(model, plans, TEXT)
    assert len(measured) == 2


def test_where_nothing_is_cut_there_is_no_error(pipeline, model):
    plan = pipeline.plan(ScoreSpec(model, BATCH), PlanSpec(sparsity=0))
    found = pipeline.reconstruction(model, {"whole": plan}, TEXT)["whole"]
    assert found.accumulated == found.local == (0, 0, 0)


@pytest.mark.parametrize("window", [0, 1, 129])
def test_a_window_that_the_model_cannot_read_is_refused(pipeline, model, plans, window):
    with counted_passes() as passes, pytest.raises(InputError, match="window"):
        pipeline.reconstruction(model, plans, replace(TEXT, window=window))
    assert passes == []
    assert "reconstruction" not in {entry.kind for entry in pipeline.store.entries()}


def test_the_command_and_the_library_share_the_store(cache, capsys, tmp_path):
    folder = str(model_folder(tmp_path / "model"))
    spec = ScoreSpec(ModelSpec(folder), BATCH)
    pipeline = Pipeline()
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.4))
    errors = pipeline.reconstruction(spec.model, {"llm-bip": plan}, TEXT)["llm-bip"]
    words = "--samples 4 --seq-len 16 --window 32 --max-tokens 96 --sparsity 0.4 --json"
    with counted_passes() as passes:
        assert main(["reconstruct", folder, *words.split()]) == 0
    assert passes == []
    rows = json.loads(capsys.readouterr().out)["errors"]
    assert tuple(row["accumulated"] for row in rows) == errors.accumulated


def test_progress_never_goes_back(pipeline, model, plans):
    seen = []
    pipeline.progress.report_to(lambda fraction, message: seen.append(fraction))
    pipeline.reconstruction(model, plans, TEXT)
    assert seen == sorted(seen)
    assert seen[-1] == 1


def test_models_that_do_not_fit_together_are_measured_one_after_the_other(
    tmp_path, pipeline, model, plans, measured, monkeypatch
):
    together = pipeline.reconstruction(model, plans, TEXT)
    assert measured == [list(plans)]
    monkeypatch.setattr(Kept, "budget", lambda *_: 0)
    alone = Pipeline(RunStore(tmp_path / "another")).reconstruction(model, plans, TEXT)
    assert measured[1:] == [[name] for name in plans]
    assert alone == together
