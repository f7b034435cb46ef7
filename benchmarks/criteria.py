"""Every criterion on equal terms: what scoring costs, and the perplexity at 20 % and 50 %.

Scoring is timed with the core alone, in this process: seconds, their ratio to one plain forward
pass of the same calibration tokens through the blocks, and the peak memory above that of the
loaded model. Then each criterion is applied twice: as its authors do it (preset ``paper``), and
with the other settings of the preset ``recommended``. The perplexities go through the run store,
so a run that was stopped goes on where it was; so do the timings unless --fresh is given.

    BIPCORE_DATA=... python benchmarks/criteria.py
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bipcore import CRITERIA, InputError, Pipeline, collect_statistics, score
from bipcore.criteria.base import SCORES
from bipcore.models.adapters import Adapter
from bipcore.models.memory import PeakMemory, settle
from bipcore.pipeline.provenance import score_identity
from bipcore.settings import PRESETS
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.kinds import Kind

SPARSITIES = (0.2, 0.5)
TREATMENTS = {"as published": "paper", "protected, compensated": "recommended"}


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--criteria", default=",".join(CRITERIA))
    parser.add_argument("--calibration", default="c4")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--texts", default="wikitext2:16384,ptb:8192", help="name:tokens, ...")
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--fresh", action="store_true", help="measure stored timings again")
    parser.add_argument("--json", type=Path, help="also write all figures here")
    return parser.parse_args()


def main() -> None:
    options = arguments()
    pipeline = Pipeline()
    model = ModelSpec(options.model)
    calibration = CalibrationSpec(options.calibration, options.samples, options.seq_len)
    specs = [ScoreSpec(model, calibration, name) for name in options.criteria.split(",")]
    texts = [
        EvaluationSpec(name, options.window, int(tokens))
        for name, tokens in (text.split(":") for text in options.texts.split(","))
    ]
    costs = {spec.criterion: cost(pipeline, spec, fresh=options.fresh) for spec in specs}
    show_costs(costs, calibration)
    dense = [pipeline.evaluate(model, text)["perplexity"] for text in texts]
    names = ", ".join(f"{t.text} (first {t.max_tokens:,} tokens)" for t in texts)
    print(f"\nPerplexity, window {options.window}: {names}; dense {figures(dense)}\n")
    results = {}
    for title, preset in TREATMENTS.items():
        results[title] = perplexities(pipeline, specs, texts, preset)
        show_perplexities(title, results[title])
    if options.json:
        found = {"spec": asdict(specs[0]), "costs": costs, "dense": dense, "perplexity": results}
        options.json.write_text(json.dumps(found, indent=1) + "\n")


def cost(pipeline: Pipeline, spec: ScoreSpec, *, fresh: bool) -> dict:
    """Seconds, ratio and bytes of scoring by one criterion; its scores are stored."""
    identity = {"scoring": score_identity(spec), "threads": torch.get_num_threads()}
    if fresh and (old := pipeline.store.find(Kind("benchmarks"), identity)):
        (old / "spec.json").unlink()
    return pipeline.store.get(Kind("benchmarks"), identity, lambda: measure(pipeline, spec))


def measure(pipeline: Pipeline, spec: ScoreSpec) -> dict:
    """Time a plain pass, then the scoring."""
    model, _ = pipeline.model(spec.model)
    tokens = pipeline.calibration(spec.model, spec.calibration)
    adapter = Adapter(model)

    @torch.no_grad()
    def plain() -> None:
        for batch in tokens.tokens.split(8):
            adapter.run_blocks(batch.to(adapter.input_device))

    def scored():
        needs = CRITERIA[spec.criterion].needs
        found = collect_statistics(model, tokens, batch_size=8) if needs == "activations" else None
        return score(model, found, spec.criterion, calibration=tokens)

    base, _, _ = timed(plain, adapter)
    seconds, memory, scores = timed(scored, adapter)
    pipeline.store.get(SCORES, score_identity(spec), lambda: scores)
    print(f"{spec.criterion}: {seconds:.1f} s, a plain pass {base:.1f} s", file=sys.stderr)
    return {"seconds": seconds, "plain": base, "ratio": seconds / base, "memory": memory}


def timed(function: Callable, adapter: Adapter) -> tuple[float, int, object]:
    """Seconds, bytes above what was in use before, and the result."""
    settle(adapter.model)
    with PeakMemory(adapter.input_device) as peak:
        start = time.perf_counter()
        result = function()
        seconds = time.perf_counter() - start
    return seconds, peak.growth, result


def perplexities(
    pipeline: Pipeline, specs: list[ScoreSpec], texts: list[EvaluationSpec], preset: str
) -> dict[str, list]:
    """By criterion: for each sparsity the realised share and the perplexities, or the reason why
    there are none."""
    values = {k: v for k, v in PRESETS[preset].values.items() if k != "criterion"}
    found: dict[str, list] = {}
    for spec in specs:
        found[spec.criterion] = []
        for sparsity in SPARSITIES:
            try:
                plan = pipeline.plan(spec, replace(PlanSpec(sparsity=sparsity), **values))
                each = [pipeline.evaluate(spec.model, t, plan)["perplexity"] for t in texts]
                found[spec.criterion].append({"realised": plan.realised, "perplexity": each})
            except InputError as error:
                found[spec.criterion].append({"refused": str(error)})
            print(f"{preset} {spec.criterion} {sparsity}: {found[spec.criterion][-1]}",
                  file=sys.stderr)  # fmt: skip
    return found


def show_costs(costs: dict[str, dict], calibration: CalibrationSpec) -> None:
    print(f"Scoring on {calibration}; {torch.get_num_threads()} threads, {os.cpu_count()} cores\n")
    print("| criterion | seconds | ratio to a plain forward pass | peak memory above the model |")
    print("|---|---|---|---|")
    for name, cost in costs.items():
        ratio, memory = f"{cost['ratio']:.2f}", f"{cost['memory'] / 2**20:,.0f} MiB"
        print(f"| `{name}` | {cost['seconds']:.1f} | {ratio} | {memory} |")


def show_perplexities(title: str, rows: dict[str, list]) -> None:
    heads = "".join(f" {sparsity:.0%} | realised |" for sparsity in SPARSITIES)
    print(f"| {title} |{heads}\n|---|{'---|' * (2 * len(SPARSITIES))}")
    for name, points in rows.items():
        cells = ""
        for point in points:
            if "refused" in point:
                cells += " – | – |"
            else:
                cells += f" {figures(point['perplexity'])} | {point['realised']:.1%} |"
        print(f"| `{name}` |{cells}")
    print()


def figures(values: list[float]) -> str:
    """ "22.88 / 62.42"; no digits after the point from 1000 on."""
    return " / ".join(f"{v:,.2f}" if v < 1000 else f"{v:,.0f}" for v in values)


if __name__ == "__main__":
    main()
