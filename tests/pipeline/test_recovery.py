"""Recovery through the pipeline: stored, resumed, measured, exported."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from bipcore.errors import Cancelled, InputError
from bipcore.export.export import load_pruned, read_export
from bipcore.models.generation import Sampling
from bipcore.pipeline.pipeline import Pipeline
from bipcore.recovery.teachers import TEACHERS
from bipcore.specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
)
from bipcore.store.resume import CHECKPOINTS
from bipcore.store.runs import RunStore
from tests.helpers.folders import model_folder, tree
from tests.helpers.fresh import read_exports
from tests.helpers.passes import counted_passes

RECOVERY = RecoverySpec(
    source="builtin",
    samples=12,
    seq_len=32,
    batch_size=4,
    validation=2,
    validate_every=2,
    learning_rate=3e-3,
    rank=4,
)
TEXT = EvaluationSpec(window=32, max_tokens=96)


@pytest.fixture
def spec(tmp_path) -> ScoreSpec:
    folder = model_folder(tmp_path / "model")
    return ScoreSpec(ModelSpec(str(folder), device="cpu"), CalibrationSpec(samples=4, seq_len=16))


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


@pytest.fixture
def plan(pipeline, spec):
    return pipeline.plan(spec, PlanSpec(sparsity=0.5))


def stop_at_step(number: int):
    def progress(fraction: float, message: str) -> None:
        if message.startswith(f"Step {number} "):
            raise Cancelled

    return progress


def test_a_stored_recovery_runs_nothing(pipeline, spec, plan):
    first = pipeline.recover(spec.model, plan, RECOVERY)
    with counted_passes() as passes:
        again = Pipeline(pipeline.store).recover(spec.model, plan, RECOVERY)
    assert passes == []
    assert again == first
    assert again.spec == RECOVERY
    assert again.plan == plan


def test_the_recovered_model_is_measured_beside_the_others(pipeline, spec, plan):
    figures = [
        pipeline.evaluate(spec.model, TEXT, *state)["perplexity"]
        for state in ((None, None), (plan, None), (plan, RECOVERY))
    ]
    assert len(set(figures)) == 3
    with counted_passes() as passes:
        again = Pipeline(pipeline.store).evaluate(spec.model, TEXT, plan, RECOVERY)
    assert passes == []
    assert again["perplexity"] == figures[2]


def test_what_was_cancelled_goes_on_and_gives_the_same(pipeline, spec, plan, tmp_path):
    whole = Pipeline(RunStore(tmp_path / "other")).recover(spec.model, plan, RECOVERY)
    pipeline.progress.report_to(stop_at_step(3))
    with pytest.raises(Cancelled):
        pipeline.recover(spec.model, plan, RECOVERY)
    seen = []
    resumed = Pipeline(pipeline.store)
    done = resumed.recover(spec.model, plan, RECOVERY, watch=seen.append)
    assert len(seen) == 1
    assert replace(done, seconds=0) == replace(whole, seconds=0)
    adapters = [
        p.adapter(spec.model, plan, RECOVERY).tensors
        for p in (resumed, Pipeline(RunStore(tmp_path / "other")))
    ]
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])
    assert not list(pipeline.store.entries(CHECKPOINTS))


def test_a_stored_teacher_is_made_once_and_no_dense_model_runs_after(pipeline, spec, plan):
    taught = replace(RECOVERY, teacher="stored")
    done = pipeline.recover(spec.model, plan, taught)
    (made,) = pipeline.store.entries(TEACHERS)
    assert done.spec == taught
    dense = pipeline.bench.model(spec.model)[0]
    calls = []
    handle = dense.register_forward_hook(lambda *_: calls.append(1))
    other = replace(taught, learning_rate=1e-3, epochs=2)
    again = pipeline.recover(spec.model, plan, other)
    handle.remove()
    assert calls == []
    assert again.name != done.name
    assert [one.digest for one in pipeline.store.entries(TEACHERS)] == [made.digest]
    live = pipeline.recover(spec.model, plan, RECOVERY)
    assert live.history[0].validation == done.history[0].validation
    assert done.history[0].validation_kl <= live.history[0].validation_kl
    names = {one.spec.teacher for one in pipeline.recoveries(spec.model, plan)}
    assert names == {"live", "stored"}


def test_checkpoints_can_lie_in_a_folder_of_their_own(pipeline, spec, plan, tmp_path):
    own = RunStore(tmp_path / "own")
    pipeline.progress.report_to(stop_at_step(2))
    with pytest.raises(Cancelled):
        pipeline.recover(spec.model, plan, RECOVERY, checkpoints=own)
    assert len(list(own.entries(CHECKPOINTS))) == 1
    other = model_folder(tmp_path / "another", seed=7)
    with pytest.raises(InputError, match="is of another model"):
        Pipeline(pipeline.store).recover(
            replace(spec.model, name=str(other)), plan, RECOVERY, checkpoints=own
        )


def test_recoveries_are_found_by_model_and_plan(pipeline, spec, plan):
    other = pipeline.plan(spec, PlanSpec(sparsity=0.3))
    made = [
        pipeline.recover(spec.model, one, replace(RECOVERY, seed=seed))
        for one, seed in ((plan, 0), (plan, 1), (other, 0))
    ]
    assert {r.name for r in pipeline.recoveries(spec.model)} == {r.name for r in made}
    assert [r.name for r in pipeline.recoveries(spec.model, plan)] == [r.name for r in made[:2]]


def test_a_recovery_whose_training_text_has_changed_is_not_offered(pipeline, spec, plan, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("so many words that there is enough of them " * 30)
    done = pipeline.recover(spec.model, plan, replace(RECOVERY, source=str(text)))
    assert [one.name for one in pipeline.recoveries(spec.model, plan)] == [done.name]
    text.write_text("other words that there is enough of, to train on " * 30)
    assert pipeline.recoveries(spec.model, plan) == []
    with pytest.raises(InputError, match="another model, type or text"):
        pipeline.stored_recovery(spec.model, done.name)
    text.unlink()
    assert pipeline.recoveries(spec.model, plan) == []


def test_a_recovery_is_had_by_its_name(pipeline, spec, plan):
    done = pipeline.recover(spec.model, plan, RECOVERY)
    assert pipeline.stored_recovery(spec.model, done.name) == (plan, RECOVERY)


@pytest.mark.parametrize("name", ["0123456789abcdef", "../../etc/passwd", "", "x"])
def test_an_unknown_name_is_refused(pipeline, spec, name):
    with pytest.raises(InputError, match="no recovery"):
        pipeline.stored_recovery(spec.model, name)


def test_a_recovery_of_another_model_is_refused(pipeline, spec, plan, tmp_path):
    done = pipeline.recover(spec.model, plan, RECOVERY)
    other = model_folder(tmp_path / "another", seed=7)
    with pytest.raises(InputError, match="another model"):
        pipeline.stored_recovery(replace(spec.model, name=str(other)), done.name)


def test_a_text_that_is_too_short_is_refused_before_anything_is_trained(pipeline, spec, tmp_path):
    short = tmp_path / "short.txt"
    short.write_text("a few words only, and no more of them")
    recovery = replace(RECOVERY, source=str(short))
    with pytest.raises(InputError, match="tokens, but 14 samples of 32 need 448"):
        pipeline.check_recovery(spec.model, recovery)


def test_all_three_continue_a_prompt(pipeline, spec, plan):
    sampling = Sampling(max_new_tokens=3, chat=False)
    *_, last = pipeline.generate(spec.model, plan, "abc", sampling, RECOVERY)
    assert set(last) == {"dense", "pruned", "recovered"}


@pytest.mark.parametrize("settings", [{}, {"protect_first": 1}])
def test_the_export_loads_in_stock_transformers_and_keeps_the_adapter(
    pipeline, spec, tmp_path, settings
):
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.5, **settings))
    root = tmp_path / "exports"
    out = root / "out"
    export = pipeline.export(spec.model, plan, out, evaluation=TEXT, recovery=RECOVERY)
    assert export.tier == (2 if settings else 1)
    trust = {"trust_remote_code": True} if settings else {}
    read = read_exports(root, **trust)
    model = pipeline.recovered(spec.model, plan, RECOVERY)
    from tests.helpers.tiny import padded_batch

    tokens, mask = padded_batch()
    with torch.no_grad():
        logits = model(tokens, attention_mask=mask).logits[mask.bool()]
    torch.testing.assert_close(read.outputs["out.logits"], logits, rtol=0, atol=1e-4)
    kept = load_file(out / "adapter" / "adapter_model.safetensors")
    adapter = pipeline.adapter(spec.model, plan, RECOVERY).tensors
    assert kept.keys() == adapter.keys()
    assert json.loads((out / "adapter" / "adapter_config.json").read_text())["r"] == 4


def test_the_kept_adapter_on_the_pruned_model_is_the_merged_model(pipeline, spec, plan, tmp_path):
    from peft import PeftModel

    pipeline.export(spec.model, plan, tmp_path / "out", recovery=RECOVERY)
    pipeline.export(spec.model, plan, tmp_path / "pruned")
    merged, _ = load_pruned(tmp_path / "out", device="cpu")
    pruned, _ = load_pruned(tmp_path / "pruned", device="cpu")
    adapted = PeftModel.from_pretrained(pruned, tmp_path / "out" / "adapter").eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        torch.testing.assert_close(adapted(tokens).logits, merged(tokens).logits, atol=1e-4, rtol=0)


def test_the_card_says_how_it_was_recovered_and_has_all_three_figures(
    pipeline, spec, plan, tmp_path
):
    pipeline.export(spec.model, plan, tmp_path / "out", evaluation=TEXT, recovery=RECOVERY)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Rank, alpha, dropout | 4, 16, 0 |" in card
    assert "|  | Dense | Pruned | Recovered |" in card
    row = next(line for line in card.splitlines() if line.startswith("| Perplexity"))
    values = [
        pipeline.evaluate(spec.model, TEXT, *state)["perplexity"]
        for state in ((None, None), (plan, None), (plan, RECOVERY))
    ]
    assert [cell.strip() for cell in row.split("|")[2:5]] == [f"{v:.2f}" for v in values]


def test_the_pruned_export_is_not_taken_for_the_recovered_one(pipeline, spec, plan, tmp_path):
    out = tmp_path / "out"
    pipeline.export(spec.model, plan, out)
    assert "adapter" not in tree(out)
    pipeline.export(spec.model, plan, out, recovery=RECOVERY)
    assert "adapter/adapter_model.safetensors" in tree(out)
    before = (out / "bipcore.json").stat().st_mtime_ns
    pipeline.export(spec.model, plan, out, recovery=RECOVERY)
    assert (out / "bipcore.json").stat().st_mtime_ns == before
    assert read_export(out).tier == 1
