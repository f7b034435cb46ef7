"""Exporting through the pipeline: what is there already, figures, licence and names."""

import pytest
import torch

from bipcore.errors import InputError
from bipcore.export.export import load_pruned, read_export
from bipcore.export.public import public_plan
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning.plan import PruningPlan, load_plan
from bipcore.specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
)
from tests.helpers.folders import byte_model, model_folder, tree, truncate
from tests.helpers.passes import counted_passes

EVALUATION = EvaluationSpec(window=32, max_tokens=96)


@pytest.fixture
def spec(tmp_path) -> ScoreSpec:
    folder = model_folder(tmp_path / "model")
    return ScoreSpec(ModelSpec(str(folder), device="cpu"), CalibrationSpec(samples=4, seq_len=16))


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


@pytest.fixture
def plan(pipeline, spec) -> PruningPlan:
    return pipeline.plan(spec, PlanSpec(sparsity=0.5))


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def _times(folder) -> dict[str, int]:
    return {path: (folder / path).stat().st_mtime_ns for path in tree(folder)}


def test_an_export_is_of_the_plan_that_was_shown(pipeline, spec, plan, out):
    done = pipeline.export(spec.model, plan, out)
    assert load_plan(out) == public_plan(plan)
    assert done.parameters == plan.pruned_shape.parameters


def test_exporting_the_same_again_leaves_it_as_it_is(pipeline, spec, plan, out):
    first = pipeline.export(spec.model, plan, out)
    before = _times(out)
    assert Pipeline(pipeline.store).export(spec.model, plan, out) == first
    assert _times(out) == before


def test_exporting_the_same_again_runs_no_pass(pipeline, spec, plan, out):
    pipeline.export(spec.model, plan, out, evaluation=EVALUATION)
    with counted_passes() as passes:
        Pipeline(pipeline.store).export(spec.model, plan, out, evaluation=EVALUATION)
    assert passes == []


def test_a_damaged_export_is_written_again(pipeline, spec, plan, out):
    pipeline.export(spec.model, plan, out)
    truncate(out / "model.safetensors", by=8)
    pipeline.export(spec.model, plan, out)
    assert load_pruned(out)[0].config.num_attention_heads == 4


def test_another_plan_replaces_the_export(pipeline, spec, plan, out):
    first = pipeline.export(spec.model, plan, out)
    other = pipeline.plan(spec, PlanSpec(sparsity=0.25))
    assert pipeline.export(spec.model, other, out).parameters > first.parameters
    assert load_plan(out) == public_plan(other)


def test_the_same_plan_of_another_model_replaces_the_export(tmp_path, pipeline, spec, plan, out):
    pipeline.export(spec.model, plan, out)
    before = (out / "model.safetensors").read_bytes()
    other = ModelSpec(str(model_folder(tmp_path / "other", seed=1)), device="cpu")
    pipeline.export(other, plan, out)
    assert (out / "model.safetensors").read_bytes() != before


def test_the_same_plan_of_a_model_edited_since_replaces_the_export(tmp_path, pipeline, spec, out):
    random = ScoreSpec(spec.model, criterion="random")
    pipeline.export(spec.model, pipeline.plan(random, PlanSpec()), out)
    before = (out / "model.safetensors").read_bytes()
    model_folder(tmp_path / "model", seed=1)
    again = Pipeline(pipeline.store)
    again.export(spec.model, again.plan(random, PlanSpec()), out)
    assert (out / "model.safetensors").read_bytes() != before


def test_the_card_says_the_perplexity_before_and_after(pipeline, spec, plan, out):
    pipeline.export(spec.model, plan, out, evaluation=EVALUATION)
    results = [pipeline.evaluate(spec.model, EVALUATION, which) for which in (None, plan)]
    before, after = (f"{result['perplexity']:.2f}" for result in results)
    card = (out / "README.md").read_text()
    assert (
        "| Perplexity, builtin test text, first 96 tokens, window 32, no beginning-of-text token |"
        in card
    )
    assert f"| {before} | {after} |" in card


def test_asking_for_figures_later_adds_them_to_the_card(pipeline, spec, plan, out):
    pipeline.export(spec.model, plan, out)
    assert "Perplexity" not in (out / "README.md").read_text()
    pipeline.export(spec.model, plan, out, evaluation=EVALUATION)
    assert "Perplexity" in (out / "README.md").read_text()


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: mit\n---\ntext", "mit"),
        ("---\nlanguage: en\n---\nlicense: mit", "unknown"),
        ("---\nother:\n  license: mit\n---\ntext", "unknown"),
        ("license: mit", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_licence_is_that_of_the_base_models_card(tmp_path, pipeline, spec, out, card, licence):
    if card:
        (tmp_path / "model" / "README.md").write_text(card)
    pipeline.export(spec.model, pipeline.plan(spec, PlanSpec()), out)
    assert f"\nlicense: {licence}\n" in (out / "README.md").read_text()


def test_a_bad_destination_is_refused_before_the_model_is_pruned(pipeline, spec, plan, out):
    out.write_text("x")
    with counted_passes() as passes, pytest.raises(InputError, match="is a file"):
        pipeline.export(spec.model, plan, out, evaluation=EVALUATION)
    assert passes == []


def test_a_plan_that_stock_classes_cannot_hold_goes_out_with_a_modelling_file(pipeline, spec, out):
    plan = pipeline.plan(spec, PlanSpec(protect_first=1))
    done = pipeline.export(spec.model, plan, out, evaluation=EVALUATION)
    assert (done.tier, load_plan(out)) == (2, public_plan(plan))
    assert (out / "modeling_pruned.py").is_file()
    assert Pipeline(pipeline.store).export(spec.model, plan, out, evaluation=EVALUATION) == done


def test_an_export_with_a_modelling_file_scores_as_the_pruned_model(pipeline, spec, out):
    plan = pipeline.plan(spec, PlanSpec(protect_first=1))
    pipeline.export(spec.model, plan, out)
    (out / "modeling_pruned.py").write_text("raise SystemExit('this code was run')")
    exported = pipeline.evaluate(ModelSpec(str(out), device="cpu"), EVALUATION)
    pruned = pipeline.evaluate(spec.model, EVALUATION, plan)
    assert exported["perplexity"] == pytest.approx(pruned["perplexity"], rel=1e-5)


@pytest.mark.parametrize("compensation", ["bias", "least-squares"])
def test_a_compensated_model_is_exported_as_it_was_shown(pipeline, spec, out, compensation):
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.5, compensation=compensation))
    done = pipeline.export(spec.model, plan, out)
    assert done.tier == (2 if compensation == "bias" else 1)
    shown, loaded = pipeline.pruned(spec.model, plan).state_dict(), load_pruned(out)[0].state_dict()
    assert shown.keys() == loaded.keys()
    assert all(torch.equal(shown[name], loaded[name]) for name in shown)


def test_an_export_says_what_it_says_when_read_later(pipeline, spec, plan, out):
    assert pipeline.export(spec.model, plan, out) == read_export(out)


def test_a_model_that_is_stored_in_half_precision_is_written_so(
    tmp_path, pipeline, spec, plan, out
):
    folder = tmp_path / "model"
    byte_model().bfloat16().save_pretrained(folder)
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.5))
    done = pipeline.export(spec.model, plan, out)
    assert pipeline.model(spec.model)[0].dtype == torch.float32
    assert (done.dtype_before, done.dtype) == ("bfloat16", "bfloat16")
    model_files = [file for file in folder.iterdir() if file.suffix in (".json", ".safetensors")]
    assert done.bytes_before == sum(file.stat().st_size for file in model_files)
    weights = (out / "model.safetensors").stat().st_size
    assert weights < (folder / "model.safetensors").stat().st_size
    assert pipeline.export(spec.model, plan, out, save_dtype="float32").dtype == "float32"
    assert (out / "model.safetensors").stat().st_size > 1.8 * weights


@pytest.fixture
def nothing() -> PlanSpec:
    """A sparsity so small that rounding undoes it."""
    return PlanSpec(sparsity=0.05, round_to=96, unit="none")


def test_a_plan_that_removes_nothing_is_warned_of_and_not_exported(pipeline, spec, out, nothing):
    with pytest.warns(UserWarning, match="The plan removes nothing"):
        plan = pipeline.plan(spec, nothing)
    with counted_passes() as passes, pytest.raises(InputError, match="removes nothing"):
        pipeline.export(spec.model, plan, out, evaluation=EVALUATION)
    assert (passes, out.exists()) == ([], False)


def test_nothing_is_warned_of_where_nothing_was_to_be_removed(pipeline, spec, recwarn):
    pipeline.plan(spec, PlanSpec(sparsity=0.0))
    assert [str(warned.message) for warned in recwarn if warned.category is UserWarning] == []


def test_what_cannot_be_exported_is_known_before_anything_is_scored(pipeline, spec, nothing):
    recovery = RecoverySpec(source="builtin")
    with counted_passes() as passes:
        pipeline.check_export(spec, PlanSpec(sparsity=0.5), format="stock")
        pipeline.check_export(spec, nothing, recovery)
        pipeline.check_export(spec, PlanSpec(allocation="global"), format="stock")
        refused = [
            (nothing, {}, "removes nothing"),
            (PlanSpec(sparsity=0.5, protect_first=1), {"format": "stock"}, "different widths"),
            (PlanSpec(sparsity=0.5, compensation="bias"), {"format": "stock"}, "adds biases"),
            (PlanSpec(), {"format": "onnx"}, "no export format"),
            (PlanSpec(), {"save_dtype": "int8"}, "not written as"),
        ]
        for plan, how, sentence in refused:
            with pytest.raises(InputError, match=sentence):
                pipeline.check_export(spec, plan, **how)
    assert passes == []
    assert not pipeline.has_scores(spec)
