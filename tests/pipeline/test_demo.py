"""The demo model through the pipeline: what the criterion is worth, and what a plan realises."""

import json

import pytest

from bipcore.data.calibration import tokenize
from bipcore.data.first_tokens import first_tokens
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec

MODEL = ModelSpec(device="cpu")
CRITERIA = ("llm-bip", "random", "magnitude")
SMALL = {"samples": 8, "seq_len": 128}


def _perplexities(pipeline, calibration, evaluation) -> dict[str, float]:
    """Of the dense model, and at 20 % by each criterion at the same realised sparsity."""
    found = {"dense": pipeline.evaluate(MODEL, evaluation)["perplexity"]}
    realised = set()
    for criterion in CRITERIA:
        plan = pipeline.plan(ScoreSpec(MODEL, calibration, criterion), PlanSpec(sparsity=0.2))
        found[criterion] = pipeline.evaluate(MODEL, evaluation, plan)["perplexity"]
        realised.add(plan.realised)
    assert len(realised) == 1
    return found


def test_llm_bip_beats_random_and_magnitude_by_far(demo_pipeline):
    evaluation = EvaluationSpec(window=256, max_tokens=512)
    found = _perplexities(demo_pipeline, CalibrationSpec(**SMALL), evaluation)
    assert found["dense"] < found["llm-bip"] < 2.5 * found["dense"]
    assert 5 * found["llm-bip"] < min(found["random"], found["magnitude"])


def test_llm_bip_beats_random_and_magnitude_by_far_on_wikitext2(
    demo_pipeline, data_folder, monkeypatch
):
    monkeypatch.setenv("BIPCORE_DATA", str(data_folder))
    evaluation = EvaluationSpec("wikitext2", window=256, max_tokens=512)
    found = _perplexities(demo_pipeline, CalibrationSpec("wikitext2", **SMALL), evaluation)
    assert found["dense"] < found["llm-bip"] < 2.5 * found["dense"]
    assert 5 * found["llm-bip"] < min(found["random"], found["magnitude"])


@pytest.mark.parametrize("unit", ["auto", "query-head", "kv-group", "none"])
@pytest.mark.parametrize("sparsity", [0.2, 0.5])
def test_a_plan_realises_what_is_asked(demo_pipeline, sparsity, unit):
    plan = demo_pipeline.plan(
        ScoreSpec(MODEL, criterion="magnitude"), PlanSpec(sparsity=sparsity, unit=unit)
    )
    pruned = demo_pipeline.pruned(MODEL, plan)
    layers = (demo_pipeline.model(MODEL)[0].model.layers, pruned.model.layers)
    before, after = (sum(p.numel() for p in side.parameters()) for side in layers)
    assert abs(1 - after / before - sparsity) < 0.005
    assert plan.realised == pytest.approx(1 - after / before)


def test_the_scores_and_the_plan_of_the_demo_model_fit_its_blocks(demo_pipeline):
    spec = ScoreSpec(MODEL, CalibrationSpec(**SMALL))
    scores, plan = demo_pipeline.scores(spec), demo_pipeline.plan(spec, PlanSpec(sparsity=0.5))
    for block in scores.blocks:
        assert [len(block.attention), len(block.heads), len(block.kv_groups)] == [576, 9, 3]
        assert len(block.ffn) == 1536
    assert len({(len(block.heads), len(block.channels)) for block in plan.blocks}) == 1


def test_the_plan_of_the_demo_model_names_the_published_model(demo_pipeline):
    plan = demo_pipeline.plan(ScoreSpec(MODEL, criterion="random"), PlanSpec())
    assert json.loads(plan.to_json())["spec"]["model"] == "HuggingFaceTB/SmolLM2-135M-Instruct"


@pytest.mark.parametrize("count", [100, 1001, 4096])
def test_the_first_tokens_of_a_text_are_those_of_all_of_it(demo, data_folder, count):
    tokenizer, text = demo[1], (data_folder / "wikitext2" / "test.txt").read_text()[:60_000]
    found = first_tokens(tokenizer, text, count)
    assert count <= len(found) < 3 * count
    assert found[:count] == tokenize(tokenizer, text)[:count]
