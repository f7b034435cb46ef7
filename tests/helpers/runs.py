"""A run store with a few results of every sort that is quick to make, of a tiny model."""

from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
)
from bipcore.store.runs import RunStore
from bipcore.studies.points import SweepSpec
from bipcore.studies.sweep import run_sweep

CALIBRATION = CalibrationSpec(samples=4, seq_len=16)
TEXT = EvaluationSpec(window=128, max_tokens=256)
PLAN = PlanSpec(sparsity=0.3)
RECOVERY = RecoverySpec(
    source="builtin", samples=4, seq_len=16, batch_size=4, validation=2, rank=4, objective="text"
)


def model_spec(folder: object) -> ModelSpec:
    """The model in a folder, as the pages name it."""
    return ModelSpec(str(folder), device="cpu")


def measured(store: RunStore, folder: object) -> Pipeline:
    """Fill ``store`` with scores, evaluations (dense, with KL, and pruned by 30 %) and a sweep of
    two points and the dense one, of the model in ``folder``."""
    pipeline, model = Pipeline(store), model_spec(folder)
    plan = pipeline.plan(ScoreSpec(model, CALIBRATION), PLAN)
    both = EvaluationSpec(window=128, max_tokens=256, metrics=("perplexity", "kl"))
    pipeline.evaluate(model, both)
    pipeline.evaluate(model, both, plan)
    sweep = SweepSpec(
        model, ("magnitude",), (0.2, 0.5), samples=(4,), calibration=CALIBRATION, texts=(TEXT,)
    )
    list(run_sweep(pipeline, sweep))
    return pipeline


def everything(store: RunStore, folder: object) -> Pipeline:
    """`measured`, and a recovery with its perplexity, reconstruction errors, a kept plan, curves
    and a search."""
    pipeline, model = measured(store, folder), model_spec(folder)
    score = ScoreSpec(model, CALIBRATION)
    plan = pipeline.plan(score, PLAN)
    pipeline.recover(model, plan, RECOVERY)
    pipeline.evaluate(model, TEXT, plan, RECOVERY)
    pipeline.reconstruction(model, {"llm-bip": plan}, TEXT)
    pipeline.plans.keep_plan(plan)
    pipeline.plans.curves(ScoreSpec(model, CALIBRATION, "obs"))
    pipeline.scores(ScoreSpec(model, CALIBRATION, "blockpruner"))
    return pipeline
