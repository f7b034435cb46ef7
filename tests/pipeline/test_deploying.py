"""Plans for a program: it takes what is made, or what is asked for is refused in one sentence."""

from dataclasses import replace
from itertools import product

import pytest

from bipcore.criteria import find_criterion, score
from bipcore.errors import InputError
from bipcore.export.runtimes import DEPLOYABLE, verdict
from bipcore.models.adapters import Adapter
from bipcore.models.loading import load_config
from bipcore.pipeline.deploying import check_taken, fitted, takes_other_widths
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.provenance import describe
from bipcore.pipeline.shrinking import _what_counts
from bipcore.pruning.budget import predicted_loss
from bipcore.pruning.choosing import make_plan, planned
from bipcore.pruning.meeting import meet
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.targets import read_target
from bipcore.specs import PROGRAMS, CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.runs import RunStore
from tests.helpers.folders import model_folder
from tests.helpers.gguf import readable_model
from tests.helpers.tiny import CONFIGS, MORE_CONFIGS, random_model
from tests.helpers.tiny import one_thread as one_thread

UNITS = ("auto", "query-head", "kv-group", "none")
ALLOCATIONS = ("auto", "uniform", "paper", "log", "global")
SPARSITIES = (0.2, 0.5)


def _model(name: str):
    return readable_model(name) if name in CONFIGS else random_model(MORE_CONFIGS[name]())


def _made(model, config, plan: PlanSpec, criterion: str = "random"):
    scores = score(model, None, criterion, seed=3)
    resolved = fitted(plan, find_criterion(criterion), scores.shape, config)
    made = describe(planned(scores, resolved), ScoreSpec(criterion=criterion), resolved)
    check_taken(made, plan.deployable, config)
    return made


def _made_or_refused(model, plan: PlanSpec) -> PruningPlan | str:
    try:
        return _made(model, model.config, plan)
    except InputError as refused:
        return str(refused)


@pytest.mark.parametrize("name", CONFIGS | MORE_CONFIGS)
@pytest.mark.parametrize("program", DEPLOYABLE)
def test_what_is_made_is_taken_or_refused_in_a_sentence(name, program):
    model, made = _model(name), 0
    for unit, allocation, sparsity in product(UNITS, ALLOCATIONS, SPARSITIES):
        plan = PlanSpec(sparsity, unit=unit, allocation=allocation, deployable=program)
        found = _made_or_refused(model, plan)
        if isinstance(found, str):
            assert "\n" not in found
            usual = (unit, allocation, sparsity) == ("auto", "uniform", 0.2)
            assert not usual or program == "gguf", found  # more may need heads that have to stay
            continue
        made += 1
        assert verdict(program, found, model.config).takes
        assert found.spec["deployable"] == program
        if allocation != "paper":
            assert found.realised == pytest.approx(sparsity, abs=0.1)
    has_gguf = verdict("gguf", _made(model, None, PlanSpec(0.2, unit="none")), model.config).takes
    assert bool(made) == (program != "gguf" or has_gguf)


def test_the_names_are_those_of_programs():
    assert {*PROGRAMS} == {"", *DEPLOYABLE}


def test_what_does_not_go_with_it_is_refused():
    model = readable_model("qwen3")
    for asked in ({"protect_first": 1}, {"allocation": "global"}, {"compensation": "bias"}):
        for program in DEPLOYABLE:
            with pytest.raises(InputError, match="does not take this plan"):
                _made(model, model.config, PlanSpec(0.3, deployable=program, **asked))


def test_a_criterion_that_ranks_sublayers_is_refused_where_widths_are_the_same():
    llama, qwen3 = readable_model("llama"), readable_model("qwen3")
    plan, found = PlanSpec(0.3, deployable="gguf"), find_criterion("blockpruner")
    assert fitted(plan, found, Adapter(llama).shape, llama.config).allocation == "sublayer"
    with pytest.raises(InputError, match=r"different|same widths"):
        fitted(plan, found, Adapter(qwen3).shape, qwen3.config)


def test_auto_becomes_what_the_program_takes():
    qwen2, flap = readable_model("qwen2"), find_criterion("flap")
    shape = Adapter(qwen2).shape
    for program, unit in (("stock", "query-head"), ("vllm", "none")):
        found = fitted(PlanSpec(0.5, deployable=program), flap, shape, qwen2.config)
        assert (found.unit, found.allocation) == (unit, "uniform")
        assert found.compensation == "least-squares"
    assert takes_other_widths("gguf", shape, qwen2.config)
    assert not takes_other_widths("stock", shape, qwen2.config)


def test_without_a_program_all_is_as_before():
    plan = PlanSpec(0.3)
    assert "deployable" not in plan.choice
    assert "deployable" not in _what_counts(plan)
    assert _what_counts(replace(plan, deployable="stock"))["deployable"] == "stock"


def test_scores_alone_do_not_say_what_a_program_takes():
    scores = score(readable_model("llama"), None, "random", seed=3)
    with pytest.raises(InputError, match="Pipeline"):
        make_plan(scores, sparsity=0.2, deployable="stock")


@pytest.mark.parametrize("criterion", ["obs-fisher", "flap"])
@pytest.mark.parametrize("program", DEPLOYABLE)
def test_plans_for_a_target_and_with_pruned_propagation_are_taken(tmp_path, criterion, program):
    pipeline = Pipeline(RunStore(tmp_path / "store"))
    folder = str(model_folder(tmp_path / "model"))
    calibration = CalibrationSpec(samples=4, seq_len=16)
    spec = ScoreSpec(ModelSpec(folder, device="cpu"), calibration, criterion)
    config = pipeline.model(spec.model)[0].config
    plan = PlanSpec(0.3, deployable=program)
    target = read_target("params=80%")
    made = pipeline.plans.budgeted(spec, plan, target)
    assert target.cost(made.pruned_shape) <= target.limit(made.shape)
    assert verdict(program, made, config).takes
    assert verdict(program, pipeline.plan(spec, plan), config).takes
    if criterion == "flap":
        walked = replace(plan, allocation="uniform", propagation="pruned")
        assert verdict(program, pipeline.plan(spec, walked), config).takes


def test_a_plan_that_is_read_is_refused_where_the_program_does_not_take_it(tmp_path):
    model = ModelSpec(str(model_folder(tmp_path / "model", "llama")))
    spec = ScoreSpec(model, CalibrationSpec(samples=2, seq_len=16), "magnitude")
    pipeline = Pipeline(RunStore(tmp_path / "store"))
    other = pipeline.plan(spec, PlanSpec(sparsity=0.5, protect_first=1))
    read = PlanSpec(source=pipeline.keep_plan(other))
    assert pipeline.plan(spec, read) == other
    with pytest.raises(InputError, match="does not take this plan"):
        pipeline.plan(spec, replace(read, deployable="vllm"))


def test_a_target_by_curves_has_the_same_widths_of_the_least_predicted_loss(tmp_path):
    folder = model_folder(tmp_path / "model")
    pipeline = Pipeline(RunStore(tmp_path / "store"))
    calibration = CalibrationSpec(samples=4, seq_len=16)
    spec = ScoreSpec(ModelSpec(str(folder), device="cpu"), calibration, "obs-fisher")
    target, settings = read_target("params=80%"), PlanSpec(deployable="stock")
    made = pipeline.plans.budgeted(spec, settings, target)
    assert verdict("stock", made, load_config(str(folder))).takes
    assert made.spec["allocation"] == "budget"
    assert made.uniform
    assert not made.removes_nothing
    assert target.cost(made.pruned_shape) <= target.limit(made.shape)
    curves, unit = pipeline.plans.curves(spec), made.spec["unit"]
    by_share = meet(lambda share: pipeline.plan(spec, replace(settings, sparsity=share)), target)
    losses = [predicted_loss(curves, plan, unit) for plan in (made, by_share)]
    assert losses[0] <= losses[1]
    with pytest.raises(InputError, match="different widths"):
        pipeline.plans.budgeted(spec, replace(settings, protect_first=1), target)
