"""From specs to results: what is computed, what is read from the store, what is refused first."""

import math
from dataclasses import replace

import pytest
import torch

from bipcore.errors import InputError
from bipcore.models.generation import Sampling
from bipcore.pipeline.pipeline import Pipeline, score_identity
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.kinds import digest
from bipcore.store.runs import RunStore
from tests.helpers.folders import byte_model, model_folder, truncate
from tests.helpers.passes import counted_passes

BATCH = CalibrationSpec(samples=6, seq_len=32)
EVALUATION = EvaluationSpec(window=32, max_tokens=96)


@pytest.fixture
def model(tmp_path) -> ModelSpec:
    return ModelSpec(str(model_folder(tmp_path / "model")), device="cpu")


@pytest.fixture
def spec(model) -> ScoreSpec:
    return ScoreSpec(model, BATCH)


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


def _same(first, second) -> bool:
    return all(
        torch.equal(a, b)
        for a, b in zip(first.to_tensors().values(), second.to_tensors().values(), strict=True)
    )


def test_scores_are_read_from_the_store_the_second_time(pipeline, spec):
    with counted_passes() as passes:
        first = pipeline.scores(spec)
        assert len(passes) == 1
        second = Pipeline(RunStore(pipeline.store.root)).scores(spec)
    assert len(passes) == 1
    assert _same(first, second)


def test_stored_scores_know_what_they_are_of(pipeline, spec):
    first = pipeline.scores(spec)
    second = Pipeline(pipeline.store).scores(spec)
    assert (second.criterion, second.fingerprint) == ("llm-bip", first.fingerprint)
    assert (second.shape, dict(second.options)) == (first.shape, dict(first.options))


def test_reading_stored_scores_loads_no_model(pipeline, spec, monkeypatch):
    def fail(*args, **options):
        raise AssertionError("the model was loaded")

    pipeline.scores(spec)
    monkeypatch.setattr("bipcore.pipeline.workbench.load_found", fail)
    again = Pipeline(pipeline.store)
    assert again.plan(spec, PlanSpec()).realised == pytest.approx(0.2, abs=0.02)


def test_another_criterion_costs_no_second_pass(pipeline, spec):
    with counted_passes() as passes:
        for criterion in ("llm-bip", "wanda", "wanda-sp", "magnitude", "random"):
            pipeline.scores(replace(spec, criterion=criterion))
    assert len(passes) == 1


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
def test_a_criterion_that_needs_no_activations_runs_no_pass(pipeline, spec, criterion):
    with counted_passes() as passes:
        pipeline.scores(replace(spec, criterion=criterion))
    assert passes == []


def test_a_criterion_that_needs_no_activations_does_not_depend_on_the_calibration(spec):
    other = replace(spec, calibration=CalibrationSpec("/nowhere.txt", seed=5))
    identities = [score_identity(replace(s, criterion="magnitude")) for s in (spec, other)]
    assert digest(identities[0]) == digest(identities[1])


def test_a_damaged_entry_is_computed_again_with_a_warning(pipeline, spec):
    first = pipeline.scores(spec)
    for entry in pipeline.store.entries():
        truncate(entry.path / "data.safetensors", by=8)
    with counted_passes() as passes, pytest.warns(UserWarning, match="damaged"):
        again = Pipeline(pipeline.store).scores(spec)
    assert len(passes) == 1
    assert _same(first, again)


@pytest.mark.parametrize(
    "change",
    [
        {"calibration": replace(BATCH, seed=1)},
        {"calibration": replace(BATCH, samples=5)},
        {"calibration": replace(BATCH, seq_len=31)},
        {"criterion": "wanda"},
    ],
)
def test_the_identity_of_scores_depends_on_what_they_are_made_from(spec, change):
    assert digest(score_identity(spec)) != digest(score_identity(replace(spec, **change)))


def test_the_identity_of_scores_depends_on_the_number_type(spec):
    other = replace(spec, model=replace(spec.model, dtype="bfloat16"))
    assert digest(score_identity(spec)) != digest(score_identity(other))


def test_naming_a_default_does_not_change_the_identity(spec):
    auto, named = (replace(spec.model, dtype=dtype) for dtype in ("auto", "float32"))
    identities = [score_identity(replace(spec, model=model)) for model in (auto, named)]
    assert digest(identities[0]) == digest(identities[1])


def test_an_edited_text_is_another_calibration(tmp_path, spec):
    file = tmp_path / "text.txt"
    spec = replace(spec, calibration=replace(BATCH, source=str(file)))
    digests = set()
    for text in ("words " * 200, "wordy " * 200):
        file.write_text(text)
        digests.add(digest(score_identity(spec)))
    assert len(digests) == 2


def test_an_edited_model_is_another_model(pipeline, spec):
    first = pipeline.scores(spec)
    byte_model(seed=1).save_pretrained(spec.model.name)
    assert not pipeline.has_scores(spec)
    assert not _same(first, Pipeline(pipeline.store).scores(spec))


def test_a_model_edited_while_it_is_held_is_loaded_again(pipeline, spec):
    first = pipeline.scores(spec)
    byte_model(seed=1).save_pretrained(spec.model.name)
    assert not _same(first, pipeline.scores(spec))


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_an_edited_configuration_or_tokenizer_is_another_model(spec, tmp_path, name):
    before = digest(score_identity(spec))
    with (tmp_path / "model" / name).open("a") as file:
        file.write("\n")
    assert digest(score_identity(spec)) != before


def test_a_tokenizer_in_text_files_is_part_of_the_model(spec, tmp_path):
    before = digest(score_identity(spec))
    (tmp_path / "model" / "merges.txt").write_text("#version: 0.2\na b\n")
    assert digest(score_identity(spec)) != before


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.5, math.nan, 0.9999])
def test_an_impossible_sparsity_is_refused_before_any_pass(pipeline, spec, sparsity):
    with counted_passes() as passes, pytest.raises(InputError, match=r"[Ss]parsity"):
        pipeline.plan(spec, PlanSpec(sparsity=sparsity))
    assert passes == []


@pytest.mark.parametrize(
    "plan",
    [
        PlanSpec(unit="kv-group", sparsity=0.99),
        PlanSpec(allocation="sublayer"),
        PlanSpec(protect_first=2, protect_last=1),
        PlanSpec(round_to=10_000),
        PlanSpec(allocation="global", propagation="pruned"),
    ],
)
def test_an_impossible_plan_is_refused_before_any_pass(pipeline, spec, plan):
    with counted_passes() as passes, pytest.raises(InputError):
        pipeline.plan(spec, plan)
    assert passes == []


def test_an_unknown_criterion_is_refused_before_anything_is_loaded(pipeline):
    spec = ScoreSpec(ModelSpec("/nowhere"), criterion="no-such-criterion")
    with pytest.raises(InputError, match="no-such-criterion"):
        pipeline.scores(spec)


def test_an_unknown_option_of_a_criterion_is_refused_before_any_pass(pipeline, spec):
    with counted_passes() as passes, pytest.raises(InputError, match="no option 'depth'"):
        pipeline.scores(replace(spec, options=(("depth", 3),)))
    assert passes == []


def test_a_plan_says_where_it_comes_from(pipeline, spec):
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.3))
    assert plan.spec["criterion"] == "llm-bip"
    assert (
        plan.spec["calibration_text"]
        == "builtin, 6 × 32 tokens, seed 0, no beginning-of-text token"
    )
    assert PruningPlan.from_json(plan.to_json()) == plan


def test_sparsity_nothing_gives_exactly_the_dense_perplexity(pipeline, spec):
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.0))
    dense = pipeline.evaluate(spec.model, EVALUATION)
    pruned = pipeline.evaluate(spec.model, EVALUATION, plan)
    assert pruned["perplexity"] == dense["perplexity"]
    assert plan.realised == 0


def test_an_evaluation_is_stored(pipeline, spec):
    plan = pipeline.plan(spec, PlanSpec())
    with counted_passes() as passes:
        first = [pipeline.evaluate(spec.model, EVALUATION, which) for which in (None, plan)]
        assert len(passes) == 2  # the three windows go through each model at once
        again = Pipeline(pipeline.store)
        second = [again.evaluate(spec.model, EVALUATION, which) for which in (None, plan)]
    assert len(passes) == 2
    assert first == second
    assert first[0]["perplexity"] != first[1]["perplexity"]


def test_an_evaluation_says_what_was_measured(pipeline, model):
    result = pipeline.evaluate(model, EVALUATION)
    assert (result["text"], result["window"], result["tokens"]) == ("builtin", 32, 96)


def test_generation_goes_on_when_one_model_has_ended(pipeline, spec):
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.5))
    sampling = Sampling(max_new_tokens=40, temperature=1.5, seed=1)
    states = list(pipeline.generate(spec.model, plan, "hello", sampling))
    assert all(set(state) == {"dense", "pruned"} for state in states)
    assert all(states[-1][name].done for name in states[-1])
    assert len(states) == max(states[-1][name].tokens for name in states[-1])


def test_counts_from_shapes_alone_are_those_of_the_model(pipeline, model):
    plan = PlanSpec(sparsity=0.5)
    run = pipeline.profile(model, plan, seq_len=16, repeats=1)
    counted = pipeline.profile_shapes(model, plan, seq_len=16)
    for with_weights, without in zip(run, counted, strict=True):
        assert without.parameters == with_weights.parameters
        assert without.macs == with_weights.macs
    assert counted[1].macs < counted[0].macs


def test_progress_never_goes_back(pipeline, spec):
    seen = []
    pipeline.progress.report_to(lambda fraction, message: seen.append(fraction))
    pipeline.scores(spec)
    assert seen == sorted(seen)
    assert 0 <= seen[0] < seen[-1] <= 1
