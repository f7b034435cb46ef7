"""A progress callable may stop what is running, at any moment; nothing half-done stays."""

from collections.abc import Callable

import pytest
import torch

from bipcore.errors import Cancelled
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from tests.helpers.folders import model_folder, tree

EVALUATION = EvaluationSpec(window=32, max_tokens=96)


@pytest.fixture
def spec(tmp_path) -> ScoreSpec:
    folder = model_folder(tmp_path / "model")
    return ScoreSpec(ModelSpec(str(folder), device="cpu"), CalibrationSpec(samples=4, seq_len=16))


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


def _cancel_when(word: str) -> Callable[[float, str], None]:
    def progress(fraction: float, message: str) -> None:
        if word in message:
            raise Cancelled

    return progress


def _hooks(model) -> int:
    modules = model.modules()
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in modules)


@pytest.mark.parametrize("word", ["Finding", "Loading", "Tokenising", "Forward pass", "Scoring"])
def test_cancelled_scores_are_not_stored_and_can_be_had_later(pipeline, spec, word):
    pipeline.progress.report_to(_cancel_when(word))
    with pytest.raises(Cancelled):
        pipeline.scores(spec)
    assert not pipeline.has_scores(spec)
    assert all(entry.whole for entry in pipeline.store.entries())
    pipeline.progress.report_to(lambda fraction, message: None)
    again, fresh = pipeline.scores(spec), Pipeline().scores(spec)
    assert torch.equal(again.blocks[1].ffn, fresh.blocks[1].ffn)


def test_a_cancelled_pass_leaves_no_hooks(pipeline, spec):
    model, _ = pipeline.model(spec.model)
    pipeline.progress.report_to(_cancel_when("Forward pass"))
    with pytest.raises(Cancelled):
        pipeline.scores(spec)
    assert _hooks(model) == 0


def test_a_cancelled_evaluation_is_not_stored(pipeline, spec):
    pipeline.progress.report_to(_cancel_when("Perplexity"))
    with pytest.raises(Cancelled):
        pipeline.evaluate(spec.model, EVALUATION)
    assert list(pipeline.store.entries()) == []


@pytest.mark.parametrize("word", ["Perplexity", "Writing", "Reading it back"])
def test_a_cancelled_export_leaves_nothing_behind(tmp_path, pipeline, spec, word):
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.5))
    before = tree(tmp_path / "model")
    pipeline.progress.report_to(_cancel_when(word))
    with pytest.raises(Cancelled):
        pipeline.export(spec.model, plan, tmp_path / "out", evaluation=EVALUATION)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model", "store"]
    assert tree(tmp_path / "model") == before
