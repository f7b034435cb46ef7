"""Estimates of commands: counted by hand for a tiny model, from its configuration alone."""

import json
from dataclasses import replace

import pytest

from bipcore.cli.main import main
from bipcore.errors import InputError
from bipcore.evaluation import estimating
from bipcore.evaluation.estimating import Job, check, estimate
from bipcore.evaluation.footprint import (
    ENTRY,
    KERNELS,
    Held,
    Stage,
    beside,
    export_stages,
    logits_stages,
    refit_stage,
    statistics_stages,
    with_kept,
)
from bipcore.models.shapes import BlockShape, ModelShape, UnitCost
from bipcore.specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
)

D, V, F, WIDTH = 8, 100, 16, 4
SHAPE = ModelShape(
    model_type="llama",
    hidden=D,
    head_dim=WIDTH,
    blocks=(BlockShape(2, 2, F),) * 3,
    head_cost=UnitCost(64, 64),
    kv_head_cost=UnitCost(64, 64),
    channel_cost=UnitCost(24, 24),
    block_fixed=16,
    other_parameters=2 * D * V + D,
    other_weights=D * V,
)
BLOCK = 4 * 64 + 16 * 24 + 16
PARAMETERS = 3 * BLOCK + 2 * D * V + D
ALWAYS = KERNELS + ENTRY * V
HELD = Held(SHAPE, element=4, stored=4)
STREAMED = replace(HELD, budget=10_000)
CALIBRATION = CalibrationSpec(samples=3, seq_len=10)


def by_name(stages) -> dict[str, Stage]:
    return {stage.name: stage for stage in stages}


def test_a_pass_holds_the_weights_and_one_blocks_activations():
    (stage,) = statistics_stages(HELD, CALIBRATION)
    a_token = 2 * D + max(2 * 16 + 8 + 8, 3 * F)  # q, k rotated too, v and what attention gives
    activations = 30 * 4 * (a_token + D)
    assert stage.bytes == ALWAYS + 4 * PARAMETERS + activations


def test_a_streamed_pass_holds_two_blocks_and_the_hidden_states_and_no_other_weights():
    stages = by_name(statistics_stages(STREAMED, CALIBRATION))
    assert stages["embedding"].bytes == ALWAYS + 2 * 4 * D * V
    terms = stages["statistics"].terms
    assert terms["blocks"] == 4 * BLOCK * 3  # one that runs, one that is read, its file's pages
    assert terms["hidden states"] == 30 * D * 4
    assert "weights" not in terms


def test_hidden_states_that_are_large_for_the_budget_lie_on_the_disk():
    assert STREAMED.hidden(10_000) == 0
    assert STREAMED.hidden_on_disk(10_000) == 10_000 * D * 4


def test_logits_of_two_passes_are_there_together_and_losses_in_float32():
    stages = by_name(logits_stages(HELD, 20, 4))
    assert stages["logits"].terms["logits"] == 2 * 20 * V * 4
    half = replace(HELD, element=2)
    assert by_name(logits_stages(half, 20, 1))["logits"].terms["logits"] == 20 * V * (2 + 8)


def test_logits_of_the_dense_model_are_beside_those_that_are_compared_with_them():
    alone, both = (by_name(logits_stages(HELD, 20, 4, compared=c)) for c in (False, True))
    assert both["logits"].terms["logits"] == 2 * alone["logits"].terms["logits"]
    job = Job("evaluate", plan=PlanSpec(sparsity=0.3), text=EvaluationSpec(metrics=("kl",)))
    plain = replace(job, text=EvaluationSpec())
    assert estimate(job, SHAPE).peak.bytes > estimate(plain, SHAPE).peak.bytes
    streamed = [by_name(logits_stages(STREAMED, 20, 2, compared=c)) for c in (False, True)]
    hidden = [one["blocks"].terms["hidden states"] for one in streamed]
    assert hidden[1] == 2 * hidden[0]


def test_training_runs_blocks_again_where_asked_for_or_where_it_would_not_fit(monkeypatch):
    job = Job("recover", plan=PlanSpec(sparsity=0.3), recovery=RecoverySpec(seq_len=64))

    def kept(asked: bool | None, free: int = 2**60) -> int:
        monkeypatch.setattr(estimating, "free_on", lambda device: free)
        stages = estimate(replace(job, gradient_checkpointing=asked), SHAPE).stages
        return by_name(stages)["training"].terms["activations"]

    channels = 8  # of 16: as many as 0.3 of a block's numbers, no head being as little as that
    block = 12 * D + 3 * 2 * 2 * WIDTH + 4 * channels
    plain, less = (4 * 2048 * (4 * V + one) for one in (3 * block, 3 * D + block))
    assert (kept(False), kept(True)) == (plain, less)
    assert (kept(None), kept(None, free=0)) == (plain, less)
    assert kept(False, free=0) == plain


def test_a_refit_holds_the_moments_and_its_largest_matrices():
    pruned = SHAPE.with_blocks((BlockShape(2, 2, 12),) * 3)
    terms = refit_stage(HELD, CALIBRATION, pruned).terms
    n, k, m = F, 12, 6  # a fifth of 30 tokens is held out
    assert terms["moments"] == 4 * n * n + 4 * m * n
    double = 8 * (n * n + k * n + k * k + k * (n - k) + D * n)
    assert terms["refit"] == double + 4 * (k * k + m * k + D * n) + 8 * m * n


def test_the_pruned_model_lies_beside_the_dense_one_and_an_export_is_there_once_more():
    pruned = SHAPE.with_blocks((BlockShape(1, 1, 8),) * 3)
    (stage,) = beside(HELD, pruned, export_stages(HELD, pruned, 4))
    assert stage.terms["pruned model"] == 4 * pruned.block_parameters
    assert stage.terms["read back"] == 4 * pruned.parameters


def test_freed_memory_is_kept_for_what_comes_after():
    found = list(with_kept([Stage("a", {"x": 50}, scratch=50), Stage("b", {"y": 20}, scratch=20)]))
    assert [stage.bytes for stage in found] == [50, 50]


def test_what_cannot_fit_is_refused_with_what_would(monkeypatch):
    monkeypatch.setattr("bipcore.evaluation.estimating.free_on", lambda device: 8 * 2**30)
    model = ModelSpec("huggyllama/llama-7b", device="cpu", memory="100GB")
    job = Job("evaluate", ScoreSpec(model), text=EvaluationSpec(window=128))
    with pytest.raises(InputError, match=r"takes about 25.\d GiB.*8.0 GiB are free.*--memory"):
        check(job, estimate(job))
    streamed = replace(job, score=ScoreSpec(replace(model, memory="4GiB")))
    check(streamed, estimate(streamed))


def test_least_squares_of_llama_7b_lie_on_the_disk_and_not_in_memory():
    model = ModelSpec("huggyllama/llama-7b", device="cpu", memory="100GB")
    job = Job("prune", ScoreSpec(model), PlanSpec(compensation="least-squares"))
    without = replace(job, plan=PlanSpec(compensation="none"))
    found, other = estimate(job), estimate(without)
    assert found.disk - other.disk > 16 * 2**30
    assert found.macs > other.macs


def test_curves_take_second_moments_that_lie_on_the_disk_once():
    model = ModelSpec("huggyllama/llama-7b", device="cpu", memory="100GB")
    scored = Job("score", ScoreSpec(model, criterion="obs"))
    found = estimate(scored)
    assert "second moments" in {stage.name for stage in found.stages}
    assert found.disk > 16 * 2**30
    assert not estimate(replace(scored, score=ScoreSpec(model))).disk
    pruned = Job("prune", scored.score, PlanSpec(compensation="least-squares"))
    less = Job("prune", ScoreSpec(model), PlanSpec(compensation="least-squares"))
    assert estimate(pruned).disk == estimate(less).disk


def test_a_command_without_an_estimate_is_refused():
    with pytest.raises(InputError, match="no estimate of 'plan'"):
        Job("plan")


def test_the_command_says_what_another_would_take(capsys):
    words = ["estimate", "huggyllama/llama-7b", "--for", "score", "--device", "cpu"]
    assert main([*words, "--memory", "2GiB", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["streamed"]
    assert facts["memory"] < 3 * 2**30
    assert facts["seconds"] > 0
