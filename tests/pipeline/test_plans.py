"""Compensation, pruned propagation and stored plans: what is computed, recorded and refused."""

import json
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch

from bipcore.criteria.moments import SecondMoments, collect_second_moments
from bipcore.criteria.statistics import collect_statistics
from bipcore.errors import Cancelled, InputError
from bipcore.evaluation.decoding import REPEATS, WARMUP
from bipcore.pipeline.latency import timed_target, times_identity
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.compensation import compensate
from bipcore.pruning.decode_times import DECODE_TIMES, DecodeTimes
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.slicing import apply_plan
from bipcore.pruning.targets import read_target
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.kinds import digest
from bipcore.store.runs import RunStore
from tests.helpers.folders import byte_model, model_folder, truncate
from tests.helpers.passes import counted_passes

BATCH = CalibrationSpec(samples=6, seq_len=32)
EVALUATION = EvaluationSpec(window=32, max_tokens=96)
LEAST_SQUARES = PlanSpec(sparsity=0.4, compensation="least-squares")


@pytest.fixture
def spec(tmp_path) -> ScoreSpec:
    folder = model_folder(tmp_path / "model")
    return ScoreSpec(ModelSpec(str(folder), device="cpu"), BATCH)


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


@pytest.fixture
def fresh(tmp_path) -> Pipeline:
    """A pipeline with another, empty store."""
    return Pipeline(RunStore(tmp_path / "other"))


def _kinds(pipeline: Pipeline) -> set[str]:
    return {entry.kind for entry in pipeline.store.entries()}


def _edited(plan: PruningPlan, **facts) -> PruningPlan:
    return replace(plan, spec={**plan.spec, **facts})


@pytest.mark.parametrize("kind", ["bias", "least-squares"])
def test_the_pruned_model_is_compensated_as_its_plan_says(pipeline, spec, kind):
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.4, compensation=kind))
    model, tokens = pipeline.model(spec.model)[0], pipeline.calibration(spec.model, BATCH)
    sources = {
        "statistics": collect_statistics(model, tokens),
        "moments": SecondMoments(collect_second_moments(model, tokens).__getitem__),
    }
    expected = compensate(apply_plan(model, plan), model, plan, kind, **sources).state_dict()
    found = pipeline.pruned(spec.model, plan).state_dict()
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)


def test_compensation_and_its_calibration_are_in_the_plan(pipeline, spec):
    said = pipeline.plan(spec, LEAST_SQUARES).spec
    assert said["compensation"] == "least-squares"
    assert CalibrationSpec(**said["compensation_calibration"]) == BATCH
    assert said["compensation_content"] == BATCH.identity()["content"]
    plain = pipeline.plan(spec, PlanSpec()).spec
    assert plain["compensation"] == "none"
    assert not [name for name in plain if name.startswith("compensation_")]


def test_a_criterion_that_is_not_calibrated_says_what_its_compensation_is(pipeline, spec):
    spec = replace(spec, criterion="magnitude")
    assert pipeline.plan(spec, LEAST_SQUARES).spec["calibration_text"] == str(BATCH)
    assert pipeline.plan(spec, PlanSpec()).spec["calibration_text"] == "none"


@pytest.mark.parametrize("kind", ["bias", "least-squares"])
def test_the_plan_read_from_a_file_gives_the_same_perplexity(pipeline, fresh, spec, tmp_path, kind):
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.4, compensation=kind))
    file = tmp_path / "plan.json"
    file.write_text(plan.to_json())
    again = fresh.plan(spec, PlanSpec(source=str(file)))
    assert again == plan
    first = pipeline.evaluate(spec.model, EVALUATION, plan)
    assert fresh.evaluate(spec.model, EVALUATION, again) == first
    with counted_passes() as passes:
        assert pipeline.evaluate(spec.model, EVALUATION, again) == first
    assert passes == []
    plain = pipeline.evaluate(spec.model, EVALUATION, _edited(plan, compensation="none"))
    assert plain["perplexity"] != first["perplexity"]


@pytest.mark.parametrize("change", [{"seed": 1}, {"samples": 5}, {"seq_len": 31}])
def test_another_calibration_is_another_plan(pipeline, spec, change):
    spec = replace(spec, criterion="magnitude")
    other = replace(spec, calibration=replace(BATCH, **change))
    plans = [pipeline.plan(one, LEAST_SQUARES) for one in (spec, other)]
    assert plans[0].blocks == plans[1].blocks
    assert digest(plans[0].to_json()) != digest(plans[1].to_json())
    values = {pipeline.evaluate(spec.model, EVALUATION, p)["perplexity"] for p in plans}
    assert len(values) == 2


def test_an_edited_text_is_another_plan_and_does_not_serve_the_old_one(pipeline, spec, tmp_path):
    file, plans = tmp_path / "text.txt", []
    spec = replace(spec, criterion="magnitude", calibration=replace(BATCH, source=str(file)))
    for text in ("some words " * 100, "other words " * 100):
        file.write_text(text)
        plans.append(pipeline.plan(spec, LEAST_SQUARES))
    assert plans[0] != plans[1]
    pipeline.pruned(spec.model, plans[1])
    with pytest.raises(InputError, match="is not the one that the plan was made with"):
        pipeline.pruned(spec.model, plans[0])


def test_least_squares_cost_one_pass_more_and_the_second_time_none(pipeline, spec):
    with counted_passes() as passes:
        plan = pipeline.plan(spec, LEAST_SQUARES)
        assert len(passes) == 1
        pipeline.pruned(spec.model, plan)
        assert len(passes) == 2
        pipeline.pruned(spec.model, pipeline.plan(spec, replace(LEAST_SQUARES, sparsity=0.3)))
        again = Pipeline(pipeline.store)
        again.pruned(spec.model, again.plan(spec, LEAST_SQUARES))
        again.pruned(spec.model, again.plan(replace(spec, criterion="wanda-sp"), LEAST_SQUARES))
    assert len(passes) == 2


def test_a_bias_is_made_of_the_statistics_that_the_scores_are_made_of(pipeline, spec):
    with counted_passes() as passes:
        plan = pipeline.plan(spec, PlanSpec(sparsity=0.4, compensation="bias"))
        pipeline.pruned(spec.model, plan)
    assert len(passes) == 1
    assert "second-moments" not in _kinds(pipeline)


def test_where_nothing_goes_nothing_is_made_up_for(pipeline, spec):
    plan = pipeline.plan(spec, replace(LEAST_SQUARES, sparsity=0.0))
    dense = pipeline.evaluate(spec.model, EVALUATION)
    assert pipeline.evaluate(spec.model, EVALUATION, plan) == dense
    assert "second-moments" not in _kinds(pipeline)


def test_damaged_second_moments_are_computed_again_with_a_warning(pipeline, spec):
    plan = pipeline.plan(spec, LEAST_SQUARES)
    first = pipeline.pruned(spec.model, plan).state_dict()
    (entry,) = [e for e in pipeline.store.entries() if e.kind == "second-moments"]
    truncate(entry.path / "block-0001.safetensors")
    again = Pipeline(pipeline.store)
    with counted_passes() as passes, pytest.warns(UserWarning, match="damaged"):
        second = again.pruned(spec.model, plan).state_dict()
    assert len(passes) == 1
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_second_moments_that_do_not_fit_are_refused_before_the_pass(pipeline, spec, monkeypatch):
    plan = pipeline.plan(spec, LEAST_SQUARES)
    monkeypatch.setattr(
        "bipcore.models.memory.psutil.virtual_memory",
        lambda: SimpleNamespace(available=2**10),
    )
    with counted_passes() as passes, pytest.raises(InputError, match="GiB are free"):
        pipeline.evaluate(spec.model, EVALUATION, plan)
    assert passes == []
    assert all(entry.whole for entry in pipeline.store.entries())
    assert "second-moments" not in _kinds(pipeline)


def test_cancelled_second_moments_leave_nothing_behind(pipeline, spec):
    def progress(fraction: float, message: str) -> None:
        if "Second moments" in message:
            raise Cancelled

    plan, model = pipeline.plan(spec, LEAST_SQUARES), pipeline.model(spec.model)[0]
    pipeline.progress.report_to(progress)
    with pytest.raises(Cancelled):
        pipeline.pruned(spec.model, plan)
    assert sum(len(m._forward_pre_hooks) for m in model.modules()) == 0
    assert "second-moments" not in _kinds(pipeline)
    pipeline.progress.report_to(lambda fraction, message: None)
    assert pipeline.pruned(spec.model, plan) is pipeline.pruned(spec.model, plan)


def test_progress_never_goes_back(pipeline, spec):
    seen = []
    plan = pipeline.plan(spec, LEAST_SQUARES)
    pipeline.progress.report_to(lambda fraction, message: seen.append(fraction))
    pipeline.evaluate(spec.model, EVALUATION, plan)
    assert seen == sorted(seen)
    assert seen[-1] <= 1


def test_propagated_scores_are_stored_by_what_they_cut(pipeline, spec):
    pruned = PlanSpec(sparsity=0.4, propagation="pruned")
    with counted_passes() as passes:
        plan = pipeline.plan(spec, pruned)
        ran = len(passes)
        assert Pipeline(pipeline.store).plan(spec, pruned) == plan
        assert len(passes) == ran
    assert (plan.spec["propagation"], pipeline.has_scores(spec)) == ("pruned", False)
    assert pipeline.has_scores(spec, pruned)
    assert not pipeline.has_scores(spec, replace(pruned, sparsity=0.5))
    dense, propagated = pipeline.scores(spec), pipeline.scores(spec, pruned)
    assert torch.allclose(dense.blocks[0].ffn, propagated.blocks[0].ffn)
    assert not torch.allclose(dense.blocks[2].ffn, propagated.blocks[2].ffn)


@pytest.mark.parametrize(
    "plan",
    [
        PlanSpec(sparsity=0.5, allocation="global", floor=0.8),
        PlanSpec(allocation="sublayer"),
        PlanSpec(propagation="pruned", allocation="global"),
    ],
    ids=str,
)
def test_an_impossible_plan_is_refused_before_any_pass(pipeline, spec, plan):
    with counted_passes() as passes, pytest.raises(InputError):
        pipeline.plan(spec, plan)
    assert passes == []


@pytest.mark.parametrize("allocation", ["owl", "block-influence"])
def test_an_allocation_by_a_number_of_each_block_goes_with_any_criterion(
    pipeline, spec, allocation
):
    plan, uncalibrated = PlanSpec(0.4, allocation=allocation), replace(spec, criterion="magnitude")
    made = pipeline.plan(uncalibrated, plan)
    depth = pipeline.scores(uncalibrated, plan).depth
    sizes = [made.shape.parameters_of_block(block) for block in made.pruned_shape.blocks]
    order = sorted(range(len(sizes)), key=depth.__getitem__)
    assert sorted(sizes) == [sizes[index] for index in order]
    assert sizes[order[0]] < sizes[order[-1]]
    assert made.realised == pytest.approx(0.4, abs=0.02)
    assert made.spec["calibration_text"] != "none"
    with counted_passes() as passes:
        assert Pipeline(RunStore(pipeline.store.root)).plan(uncalibrated, plan) == made
    assert passes == []
    other = replace(uncalibrated, calibration=replace(BATCH, seed=1))
    assert not pipeline.has_scores(other, plan)
    assert pipeline.has_scores(other)


def test_without_its_numbers_such_an_allocation_is_refused(pipeline, spec):
    scores = pipeline.scores(spec)
    with pytest.raises(InputError, match="one number a block"):
        make_plan(scores, sparsity=0.4, allocation="owl")


def test_curves_are_made_once_from_the_second_moments_that_least_squares_reads(pipeline, spec):
    plan = PlanSpec(0.4, compensation="least-squares")
    obs, slimgpt = (replace(spec, criterion=name) for name in ("obs", "slimgpt"))
    pipeline.pruned(spec.model, pipeline.plan(obs, plan))
    with counted_passes() as passes:
        pipeline.scores(slimgpt)
    assert passes == []
    kinds = [entry.kind for entry in pipeline.store.entries()]
    assert (kinds.count("curves"), kinds.count("second-moments")) == (2, 1)
    assert pipeline.plans.curves(obs).settings.ridge == 0.1
    with pytest.raises(InputError, match="'flap' has no curves; obs, obs-fisher, slimgpt have"):
        pipeline.plans.curves(replace(spec, criterion="flap"))


def test_a_plan_for_a_target_is_cut_and_another_target_takes_no_pass(pipeline, spec):
    obs, plan = replace(spec, criterion="obs-fisher"), PlanSpec(protect_first=1)
    target = read_target("params=75%")
    made = pipeline.plans.budgeted(obs, plan, target)
    pruned = pipeline.pruned(spec.model, made)
    assert sum(p.numel() for p in pruned.parameters()) == made.pruned_shape.parameters
    assert made.pruned_shape.parameters <= 0.75 * made.shape.parameters
    assert made.spec["target"] == "params=75%"
    assert made.spec["compensation"] == "least-squares"
    with counted_passes() as passes:
        again = Pipeline(RunStore(pipeline.store.root))
        smaller = again.plans.budgeted(obs, plan, read_target("params=70%"))
    assert passes == []
    assert smaller.pruned_shape.parameters < made.pruned_shape.parameters
    assert smaller.blocks[0] == made.blocks[0]
    with pytest.raises(InputError, match="the dense model's scores alone"):
        pipeline.plans.budgeted(obs, replace(plan, propagation="pruned"), target)


@pytest.mark.parametrize("criterion", ["magnitude", "slimgpt"])
def test_a_criterion_without_curves_meets_a_target_by_its_allocation(pipeline, spec, criterion):
    scored, plan = replace(spec, criterion=criterion), PlanSpec(protect_first=1)
    found = pipeline.plans.budgeted(scored, plan, read_target("params=75%"))
    cost, dense = found.pruned_shape.parameters, found.shape.parameters
    assert 0.74 * dense < cost <= 0.75 * dense
    assert found.spec["target"] == "params=75%"
    alone = pipeline.plan(scored, replace(plan, sparsity=found.spec["sparsity"]))
    assert alone.blocks == found.blocks
    with counted_passes() as passes:
        smaller = pipeline.plans.budgeted(scored, plan, read_target("macs=70%"))
    assert passes == []
    assert smaller.pruned_shape.macs(512) <= 0.7 * smaller.shape.macs(512)
    with pytest.raises(InputError, match="is below the smallest plan with these settings"):
        pipeline.plans.budgeted(scored, plan, read_target("params=1%"))


def test_a_latency_is_planned_by_stored_times_and_the_plan_is_timed(pipeline, spec):
    fisher, plan = replace(spec, criterion="obs-fisher"), PlanSpec(protect_first=1)
    times = DecodeTimes(((0, 0.0), (1, 2.0), (8, 3.0)), ((0, 0.0), (96, 1.0)), outside=5.0)
    identity = times_identity(pipeline.model(spec.model)[0], spec.model, "head", 40)
    pipeline.store.get(DECODE_TIMES, identity, lambda: times)
    pipeline.plans.curves(fisher)
    with counted_passes() as passes:
        made = pipeline.plans.budgeted(fisher, plan, read_target("latency=90%@40"))
    assert len(passes) == 1 + WARMUP + REPEATS  # the pruned model's own
    said = made.spec["latency"]
    assert (said["dense"], said["asked"]) == (17, pytest.approx(15.3))
    assert said["predicted"] == times.milliseconds(made.pruned_shape) <= said["asked"]
    assert said["measured"] > 0
    assert (said["context"], said["dtype"]) == (40, "float32")
    assert made.shape.blocks[0] == made.pruned_shape.blocks[0]
    assert json.loads(made.to_json())["spec"]["latency"] == said
    for target, refused in (
        ("100%@40", "not below what the dense"),
        ("90%@999999", "is from 1 to"),
    ):
        with pytest.raises(InputError, match=refused):
            pipeline.plans.budgeted(fisher, plan, read_target(f"latency={target}"))


def test_times_are_measured_once(pipeline, spec):
    target = read_target("latency=90%@20")
    first = timed_target(pipeline.bench, spec.model, "head", target)
    again = Pipeline(RunStore(pipeline.store.root))
    again.model(spec.model)
    with counted_passes() as passes:
        second = timed_target(again.bench, spec.model, "head", target)
    assert passes == []
    assert first == second
    timed_target(again.bench, spec.model, "head", replace(target, context=21))
    assert [entry.kind for entry in pipeline.store.entries()].count("decode-times") == 2


def test_a_kept_plan_is_found_by_its_name(pipeline, spec):
    plan = pipeline.plan(spec, LEAST_SQUARES)
    name = pipeline.keep_plan(plan)
    assert pipeline.keep_plan(plan) == name
    again = Pipeline(RunStore(pipeline.store.root))
    assert again.stored_plan(name) == again.plan(spec, PlanSpec(source=name)) == plan
    assert pipeline.keep_plan(_edited(plan, compensation="none")) != name


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", '{"plan": 3}', '{"plan": "{}"}'])
def test_a_damaged_kept_plan_is_refused_in_a_sentence(pipeline, spec, content):
    name = pipeline.keep_plan(pipeline.plan(spec, PlanSpec()))
    (pipeline.store.root / "plans" / name / "data.json").write_text(content)
    with pytest.raises(InputError, match="is damaged"):
        pipeline.stored_plan(name)


@pytest.mark.parametrize("source", ["0123456789abcdef", "/nowhere/plan.json", "../plans"])
def test_a_plan_that_is_not_there_is_refused(pipeline, source):
    with pytest.raises(InputError, match=r"cannot be read|not in the run store"):
        pipeline.stored_plan(source)


def test_a_plan_of_another_model_is_refused_before_any_pass(pipeline, spec, tmp_path):
    name = pipeline.keep_plan(pipeline.plan(spec, PlanSpec()))
    other = replace(spec, model=ModelSpec(str(tmp_path / "gqa"), device="cpu"))
    model_folder(tmp_path / "gqa", "mistral")
    with counted_passes() as passes, pytest.raises(InputError, match="another shape"):
        pipeline.plan(other, PlanSpec(source=name))
    with pytest.raises(InputError, match="another shape"):
        pipeline.profile_shapes(other.model, PlanSpec(source=name), seq_len=8)
    assert passes == []


@pytest.mark.parametrize(
    ("facts", "says"),
    [
        ({"compensation": "bias"}, "does not say what it was calibrated on"),
        ({"compensation": "glue"}, "no compensation 'glue'"),
        ({"compensation": ["bias"]}, "no compensation"),
        ({"compensation": "auto"}, "no compensation 'auto'"),
        ({"compensation": "bias", "compensation_calibration": "builtin"}, "does not say"),
        ({"compensation": "bias", "compensation_calibration": {"seed": "1"}}, "does not say"),
        (
            {
                "compensation": "least-squares",
                "compensation_calibration": asdict(replace(BATCH, source="/nowhere.txt")),
            },
            "nowhere.txt",
        ),
    ],
    ids=str,
)
def test_a_plan_by_hand_with_a_wrong_compensation_is_refused(pipeline, spec, facts, says):
    plan = replace(pipeline.plan(spec, PlanSpec()), spec=facts)
    with pytest.raises(InputError, match=says) as caught:
        pipeline.pruned(spec.model, plan)
    assert "\n" not in str(caught.value)


def test_an_edited_model_is_not_compensated_from_old_moments(pipeline, spec):
    plan = pipeline.plan(spec, LEAST_SQUARES)
    first = pipeline.pruned(spec.model, plan)
    byte_model(seed=1).save_pretrained(spec.model.name)
    with counted_passes() as passes:
        assert pipeline.pruned(spec.model, plan) is not first
    assert len(passes) == 1


def test_second_moments_that_another_process_clears_are_made_again(pipeline, spec, monkeypatch):
    real, cleared = SecondMoments.from_files, []

    def clear_once(files):
        if not cleared:
            cleared.append(RunStore(pipeline.store.root).clear())
        return real(files)

    monkeypatch.setattr(SecondMoments, "from_files", clear_once)
    moments = pipeline.second_moments(spec.model, spec.calibration)

    assert cleared[0] > 0
    assert len(moments.of(0, "o")) == 64
