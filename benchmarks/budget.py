"""What a smaller model is worth: of every row KL, agreement and perplexity, over several seeds.

A row is a way to cut a model and, where it says so, to train it afterwards; the table has the mean
over the seeds of the calibration (and of the training) and how far the seeds are apart. Held out
are the last samples of the same draw of the calibration text, which nothing was fitted on.
Everything goes through the run store: a run that was stopped goes on where it was.

    BIPCORE_DATA=... python benchmarks/budget.py --sparsity 0.5 --rows llm-bip recommended
    BIPCORE_DATA=... python benchmarks/budget.py --workers 8 --json budget.json   # on a GPU
    BIPCORE_DATA=... python benchmarks/budget.py --file rows.json                 # rows of your own

A file has a list of rows: {"name": ..., "criterion": ..., "plan": {"protect_first": 3},
"calibration": {"samples": 256}, "training": {"learning_rate": 1e-3}, "sparsity": 0.5}; all but the
name may be left out, and without "training" nothing is trained. "target" ("params=100M") stands
for the cost instead of the sparsity.
"""

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from bipcore import InputError, Pipeline
from bipcore.evaluation.profiling import device_name
from bipcore.models.adapters import Adapter
from bipcore.models.divergence import kl_divergence
from bipcore.pruning.targets import read_target
from bipcore.settings import PRESETS
from bipcore.specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
)

METRICS = "kl", "agreement", "perplexity"


@dataclass(frozen=True)
class Row:
    """A way to a smaller model: the settings that differ from those of its preset."""

    name: str
    criterion: str = "flap"
    preset: str = "recommended"
    plan: dict[str, Any] = field(default_factory=dict)
    calibration: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] | None = None
    sparsity: float | None = None
    target: str | None = None


DISTILLED = {"train": "blocks", "batch_size": 1, "learning_rate": 3e-4, "warmup": 0.05}
LORA = {"train": "lora", "batch_size": 1, "learning_rate": 2e-3, "warmup": 0.05}
TEXT = {"objective": "text"}
ROWS = (
    Row("llm-bip", "llm-bip", "paper"),
    Row("recommended"),
    Row("llm-bip, distilled", "llm-bip", "paper", training=DISTILLED),
    Row("recommended, distilled", training=DISTILLED),
    Row("recommended, blocks on the text", training=DISTILLED | TEXT),
    Row("recommended, LoRA distilled", training=LORA),
    Row("recommended, LoRA on the text", training=LORA | TEXT),
)


def main() -> None:
    options = _options()
    rows = _rows(options)
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // options.workers))
    print(f"{options.model} in {options.dtype}, {_device(options)}", file=sys.stderr, flush=True)
    tasks = [
        (row, sparsity, seed)
        for seed in options.seeds
        for row in rows
        for sparsity in ([row.sparsity] if row.sparsity else options.sparsity)
    ]
    dense = measured(Pipeline(), options)
    found = []
    for (row, sparsity, seed), result in _done(tasks, options):
        print(f"{row.name}, {sparsity:.0%}, seed {seed}: {_say(result)}", file=sys.stderr)
        found.append({"row": asdict(row), "sparsity": sparsity, "seed": seed} | result)
        if options.json:
            options.json.write_text(json.dumps({"dense": dense, "found": found}, indent=1) + "\n")
    show(dense, rows, found, options)


def _done(tasks: list, options: argparse.Namespace) -> Iterator[tuple[tuple, dict]]:
    """Each task with its result, in the order in which they end."""
    if options.workers == 1:
        pipeline = Pipeline()
        yield from ((task, attempt(pipeline, options, *task)) for task in tasks)
        return
    how = {"mp_context": multiprocessing.get_context("spawn"), "initializer": _start}
    with ProcessPoolExecutor(options.workers, **how, initargs=(torch.get_num_threads(),)) as pool:
        running = {pool.submit(_attempt, options, *task): task for task in tasks}
        for future in as_completed(running):
            yield running[future], future.result()


_pipeline: Pipeline


def _start(threads: int) -> None:
    global _pipeline
    torch.set_num_threads(threads)
    _pipeline = Pipeline()


def _attempt(options: argparse.Namespace, *task: Any) -> dict:
    return attempt(_pipeline, options, *task)


def attempt(pipeline: Pipeline, options: argparse.Namespace, *task: Any) -> dict:
    """What a row comes to, or why it cannot be."""
    try:
        return one(pipeline, options, *task)
    except InputError as error:
        return {"refused": str(error)}


def one(
    pipeline: Pipeline, options: argparse.Namespace, row: Row, sparsity: float, seed: int
) -> dict:
    """The figures of a row at a sparsity, with the seconds they took."""
    started = time.perf_counter()
    text = CalibrationSpec(options.calibration, options.samples, options.seq_len, seed)
    score = ScoreSpec(_model(options), replace(text, **row.calibration), row.criterion)
    preset = {k: v for k, v in PRESETS[row.preset].values.items() if k != "criterion"}
    settings = PlanSpec(sparsity=sparsity, **(preset | row.plan))
    if row.target:
        plan = pipeline.plans.budgeted(score, settings, read_target(row.target))
    else:
        plan = pipeline.plan(score, settings)
    recovery, result = None, {"realised": plan.realised}
    if row.training is not None:
        recovery = training_of(row, options, seed)
        done = pipeline.recover(score.model, plan, recovery)
        result |= {"tokens": done.tokens, "training_seconds": done.seconds}
    result |= measured(pipeline, options, plan, recovery, seed)
    return result | {"seconds": time.perf_counter() - started}


def training_of(row: Row, options: argparse.Namespace, seed: int) -> RecoverySpec:
    """How a row is trained: on as many tokens as ``options`` say, but for what it says itself."""
    sizes = {"samples": options.train_samples, "seq_len": options.seq_len, "seed": seed}
    sizes |= {"validation": options.held_out, "validate_every": max(1, options.train_samples // 8)}
    return RecoverySpec(options.calibration, **(sizes | row.training))


def measured(
    pipeline: Pipeline, options: argparse.Namespace, plan=None, recovery=None, seed: int = 0
) -> dict:
    """By the name of a text its metrics, of the dense model without ``plan``."""
    model, found = _model(options), {}
    for name, tokens in (text.split(":") for text in options.texts):
        text = EvaluationSpec(name, options.window, int(tokens), metrics=METRICS)
        of_text = pipeline.evaluate(model, text, plan, recovery)
        found[name] = {metric: of_text[metric] for metric in METRICS}
    found["held out"] = held_out(pipeline, options, plan, recovery, seed)
    return found


@torch.no_grad()
def held_out(pipeline: Pipeline, options: argparse.Namespace, plan, recovery, seed: int) -> dict:
    """The same metrics on the last samples of the draw that training takes."""
    spec, count = _model(options), options.train_samples + options.held_out
    text = CalibrationSpec(options.calibration, count, options.seq_len, seed)
    samples = pipeline.bench.calibration(spec, text).tokens[-options.held_out :]
    dense = pipeline.bench.model(spec)[0]
    model = pipeline.states.variant(spec, plan, recovery)
    apart, same, losses = [], [], []
    for tokens in samples.to(Adapter(dense).input_device).split(1):  # (1, T)
        theirs = dense(input_ids=tokens, use_cache=False).logits
        own = model(input_ids=tokens, use_cache=False).logits
        apart.append(kl_divergence(own, theirs).mean())
        same.append((own.argmax(-1) == theirs.argmax(-1)).float().mean())
        losses.append(torch.nn.functional.cross_entropy(own[0, :-1].float(), tokens[0, 1:]))
    kl, agreement, loss = (torch.stack(values).mean() for values in (apart, same, losses))
    return {"kl": kl.item(), "agreement": agreement.item(), "perplexity": loss.exp().item()}


def show(dense: dict, rows: Iterable[Row], found: list[dict], options: argparse.Namespace) -> None:
    """The table: a line a row and sparsity."""
    texts = [text.split(":")[0] for text in options.texts] + ["held out"]
    said = " / ".join(f"{dense[text]['perplexity']:.2f}" for text in texts)
    print(f"\nPerplexity ({' / '.join(texts)}; dense {said}), KL in nats a token, agreement\n")
    print("| row | cut | tokens | perplexity | KL | agreement | seeds |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        for sparsity in sorted({one["sparsity"] for one in found}):
            if same := [o for o in found if (o["row"], o["sparsity"]) == (asdict(row), sparsity)]:
                print(f"| {row.name} | {' | '.join(_cells(same, texts))} |")


def _cells(same: list[dict], texts: list[str]) -> list[str]:
    """What the table says of the results of one row at one sparsity."""
    whole = [one for one in same if "refused" not in one]
    if not whole:
        return [f"{same[0]['sparsity']:.0%}", same[0]["refused"], "", "", "", ""]
    figures = [_cell(whole, texts, name) for name in ("perplexity", "kl", "agreement")]
    first = whole[0]
    return [f"{first['realised']:.1%}", f"{first.get('tokens', 0):,}", *figures, str(len(whole))]


def _cell(results: list[dict], texts: list[str], metric: str) -> str:
    """The means over the seeds, and in brackets how far the seeds are apart."""
    parts = []
    for text in texts:
        values = [result[text][metric] for result in results]
        mean, spread = statistics.mean(values), max(values) - min(values)
        form = {"agreement": ".1%", "kl": ".2f"}.get(metric, ".1f")
        parts.append(f"{mean:{form}}" + (f" ({spread:{form}})" if len(values) > 1 else ""))
    return " / ".join(parts)


def _say(result: dict) -> str:
    if "refused" in result:
        return result["refused"]
    texts = {name: value for name, value in result.items() if isinstance(value, dict)}
    figures = (f"{n} {v['perplexity']:.2f} (KL {v['kl']:.3f})" for n, v in texts.items())
    return f"{', '.join(figures)}; {result['seconds']:.0f} s"


def _model(options: argparse.Namespace) -> ModelSpec:
    return ModelSpec(options.model, dtype=options.dtype, device=options.device)


def _device(options: argparse.Namespace) -> str:
    return f"{device_name(options.device)}, torch {torch.__version__}, {options.workers} at once"


def _rows(options: argparse.Namespace) -> list[Row]:
    if options.file:
        return [Row(**row) for row in json.loads(options.file.read_text())]
    return [row for row in ROWS if not options.rows or row.name in options.rows]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--rows", nargs="+", choices=[row.name for row in ROWS], default=[])
    parser.add_argument("--file", type=Path, help="rows of your own, as JSON")
    parser.add_argument("--sparsity", nargs="+", type=float, default=[0.2, 0.5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--calibration", default="c4")
    parser.add_argument("--samples", type=int, default=64, help="to score and refit with")
    parser.add_argument("--seq-len", type=int, default=512)
    parser.add_argument("--train-samples", type=int, default=944)
    parser.add_argument("--held-out", type=int, default=8)
    parser.add_argument("--texts", nargs="+", default=["wikitext2:16384", "ptb:8192"])
    parser.add_argument("--window", type=int, default=1024)
    parser.add_argument("--workers", type=int, default=1, help="processes that work side by side")
    parser.add_argument("--json", type=Path, help="also write all figures here, after each")
    return parser.parse_args()


if __name__ == "__main__":
    main()
