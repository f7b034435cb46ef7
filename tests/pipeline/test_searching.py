"""The search over widths from specs to a plan: stored step by step, on tokens of its own."""

import json
from dataclasses import replace

import pytest
import torch

from bipcore.errors import Cancelled, InputError
from bipcore.models.divergence import kl_divergence
from bipcore.pipeline import searching
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.searching import WidthSearch, held_out_tokens, search_widths
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.targets import read_target
from bipcore.pruning.trials import Trials
from bipcore.specs import CalibrationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.runs import RunStore
from tests.helpers.folders import model_folder
from tests.helpers.tiny import one_thread as one_thread

PLAN = PlanSpec(sparsity=0.4, compensation="least-squares", protect_first=1)
SEARCH = WidthSearch(steps=9, samples=2)


@pytest.fixture
def spec(tmp_path) -> ScoreSpec:
    calibration = CalibrationSpec(samples=6, seq_len=32)
    return ScoreSpec(ModelSpec(str(model_folder(tmp_path / "model")), device="cpu"), calibration)


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


@pytest.fixture
def tried(monkeypatch) -> list[PruningPlan]:
    """The plans that are measured, and not read."""
    plans, real = [], Trials.divergence

    def watched(self, plan: PruningPlan) -> float:
        plans.append(plan)
        return real(self, plan)

    monkeypatch.setattr(Trials, "divergence", watched)
    return plans


def _search(pipeline: Pipeline, spec: ScoreSpec, search: WidthSearch = SEARCH) -> PruningPlan:
    start = pipeline.plan(spec, PLAN)
    return search_widths(pipeline.plans, spec, PLAN, start, search)


def test_the_found_plan_is_no_larger_and_says_how_it_was_found(pipeline, spec, tried):
    start, found = pipeline.plan(spec, PLAN), _search(pipeline, spec)
    said = found.spec["search"]
    assert len(tried) == said["steps"] + 1 == 10
    assert said["tokens"] == 2 * 32
    assert found.pruned_shape.parameters <= start.pruned_shape.parameters
    assert found.blocks[0] == start.blocks[0]
    assert said["divergence"] <= said["divergence_before"]
    assert found in [replace(plan, spec=found.spec) for plan in tried]
    assert PruningPlan.from_json(found.to_json()) == found
    assert json.loads(found.to_json())["spec"]["sparsity"] == found.realised


def test_the_divergence_it_says_is_that_of_the_model_it_leads_to(pipeline, spec):
    found = _search(pipeline, spec)
    tokens = held_out_tokens(pipeline.bench, spec.model, spec.calibration, 2)
    dense, pruned = pipeline.model(spec.model)[0], pipeline.pruned(spec.model, found)
    with torch.no_grad():
        expected = kl_divergence(pruned(tokens).logits, dense(tokens).logits).mean()
    assert found.spec["search"]["divergence"] == pytest.approx(float(expected), rel=1e-4)


def test_a_search_that_was_stopped_goes_on_and_one_may_go_further(pipeline, spec, tried):
    messages = []

    def stop(fraction: float, message: str) -> None:
        messages.append(message)
        if message.startswith("Search, step 5"):
            raise Cancelled

    with pytest.raises(Cancelled):
        _search(Pipeline(pipeline.store, progress=stop), spec)
    assert len(tried) == 5
    found = _search(pipeline, spec)
    assert len(tried) == 10
    assert _search(Pipeline(RunStore(pipeline.store.root)), spec) == found
    assert len(tried) == 10
    further = _search(pipeline, spec, replace(SEARCH, steps=14))
    assert len(tried) == 15
    assert further.spec["search"]["divergence"] <= found.spec["search"]["divergence"]
    assert len({message for message in messages if "step" in message}) == 6


def test_a_target_is_never_exceeded(pipeline, spec):
    fisher, target = replace(spec, criterion="obs-fisher"), read_target("params=75%")
    start = pipeline.plans.budgeted(fisher, PLAN, target)
    found = search_widths(pipeline.plans, fisher, PLAN, start, SEARCH, target)
    assert found.pruned_shape.parameters <= 0.75 * found.shape.parameters
    assert found.spec["target"] == "params=75%"


@pytest.mark.parametrize("source", ["builtin", "builtin:0.5,text.txt:0.5"])
def test_what_is_held_out_is_not_calibrated_on(pipeline, spec, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text.txt").write_text(" ".join(f"word {n}" for n in range(600)))
    calibration = replace(spec.calibration, source=source)
    own = pipeline.calibration(spec.model, calibration).tokens.tolist()
    held_out = held_out_tokens(pipeline.bench, spec.model, calibration, 3).tolist()
    assert len(held_out) == 3
    assert not [row for row in held_out if row in own]


@pytest.mark.parametrize(
    ("plan", "search", "said"),
    [
        ({"sparsity": 0.0}, SEARCH, "begins with a plan that removes something"),
        ({"allocation": "sublayer"}, SEARCH, "no widths to search"),
        ({}, WidthSearch(1, 10**6), "needs? .*samples|ask for fewer"),
    ],
)
def test_what_cannot_be_searched_is_refused(pipeline, spec, tried, plan, search, said):
    start = pipeline.plan(spec, replace(PLAN, sparsity=plan.get("sparsity", 0.4)))
    criterion = "blockpruner" if "allocation" in plan else spec.criterion
    with pytest.raises(InputError, match=said):
        search_widths(
            pipeline.plans,
            replace(spec, criterion=criterion),
            replace(PLAN, **plan),
            start,
            search,
        )
    assert tried == []


@pytest.mark.parametrize(("steps", "samples"), [(-1, 1), (1, 0)])
def test_a_search_takes_a_step_and_a_sample(steps, samples):
    with pytest.raises(InputError, match="takes steps, or none, on at least 1 sample"):
        searching.WidthSearch(steps, samples)
