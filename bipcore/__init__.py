"""bipcore: LLM-BIP scores, structured pruning, and seeing what it did. One verb chain:

score -> plan -> apply -> evaluate

>>> import bipcore
>>> model, tokenizer = bipcore.load_model("demo")
>>> calibration = bipcore.load_calibration(
...     "builtin", tokenizer, samples=32, seq_len=256, seed=0)
>>> statistics = bipcore.collect_statistics(model, calibration)
>>> scores = bipcore.score(model, statistics, "llm-bip")
>>> plan = bipcore.make_plan(scores, sparsity=0.2)
>>> pruned = bipcore.apply_plan(model, plan)
>>> bipcore.save_pruned(pruned, tokenizer, "out", plan=plan)
"""

import importlib
import os

__version__ = "0.2.0"

# OpenMP threads that spin long while they wait take the cores from whatever runs beside them (the
# browser, another job); threads that do not spin at all are slow to wake. This is between, and is
# read when torch is first imported.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

_HOMES = {
    "CalibrationSet": "data.samples",
    "load_calibration": "data.calibration",
    "load_model": "models.loading",
    "Statistics": "criteria.statistics",
    "collect_statistics": "criteria.statistics",
    "CRITERIA": "criteria",
    "Scores": "criteria",
    "score": "criteria",
    "PruningPlan": "pruning.plan",
    "make_plan": "pruning.choosing",
    "apply_plan": "pruning.slicing",
    "SecondMoments": "criteria.moments",
    "collect_second_moments": "criteria.moments",
    "compensate": "pruning.compensation",
    "score_pruned": "pruning.propagation",
    "reconstruction_errors": "evaluation.reconstruction",
    "llm_bip_bound": "evaluation.reconstruction",
    "SweepSpec": "studies.points",
    "run_sweep": "studies.sweep",
    "masked_model": "pruning.slicing",
    "load_test_tokens": "evaluation.metrics",
    "perplexity": "evaluation.metrics",
    "run_task": "evaluation.zero_shot",
    "TaskResult": "evaluation.zero_shot",
    "RecoverySpec": "specs",
    "recover": "recovery.training",
    "recovered_model": "recovery.weights",
    "LoraAdapter": "recovery.lora",
    "merged": "recovery.lora",
    "Profile": "evaluation.profiling",
    "profile_model": "evaluation.profiling",
    "Sampling": "models.generation",
    "Export": "export.export",
    "save_pruned": "export.export",
    "load_pruned": "export.export",
    "load_plan": "pruning.plan",
    "InputError": "errors",
    "RunStore": "store.runs",
    "Pipeline": "pipeline.pipeline",
}

__all__ = list(_HOMES)


def __getattr__(name: str):
    """Import what is asked for when it is asked for: torch alone takes seconds."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bipcore' has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
