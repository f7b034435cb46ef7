"""Zero-shot tasks: what `run_task` measures against a plain lm_eval run, to the last digit.

The plain run is `lm_eval.simple_evaluate` over a fresh `HFLM`, on the same rows, which a YAML file
beside the shipped definition reads from a JSONL file.

    BIPCORE_DATA=/path/to/data python benchmarks/zero_shot_equality.py --limit 100 --tasks piqa
"""

import argparse
import json
import logging
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch
import yaml

from bipcore.data.tasks import KNOWN, local_file, tasks_folder
from bipcore.evaluation.zero_shot import average, run_task
from bipcore.models.loading import load_model
from bipcore.specs import SEVEN

SPLITS = ("training", "validation", "test")


def hub_rows(task: str, path: Path) -> list[dict]:
    """The file's rows as the hub's data set has them, made here and not by bipcore."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]
    if task == "boolq":
        return [row | {"label": int(row["answer"])} for row in rows]
    return rows


def plain(model, tokenizer, task: str, folder: Path, *, limit: int | None) -> dict[str, float]:
    """Every figure of a plain lm_eval run by its own name."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    known, out = KNOWN[task], folder / task
    out.mkdir()
    rows = "\n".join(json.dumps(row) for row in hub_rows(task, local_file(task)))
    (out / "rows.jsonl").write_text(rows)
    definition = {
        "include": str(tasks_folder() / known.yaml),
        "task": task,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": {known.split: str(out / "rows.jsonl")}},
        **{f"{s}_split": s if s == known.split else None for s in SPLITS},
    }
    (out / f"{task}.yaml").write_text(yaml.safe_dump(definition))
    manager = TaskManager(include_path=str(out), include_defaults=False)
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=8)
    found = simple_evaluate(
        model=lm, tasks=[task], task_manager=manager, num_fewshot=0, limit=limit, log_samples=False
    )["results"][task]
    return {k.removesuffix(",none"): v for k, v in found.items() if k.endswith(",none")}


def ours(result) -> dict[str, float]:
    """The figures of a `TaskResult` by lm_eval's names."""
    errors = {f"{name}_stderr": value for name, value in result.stderrs.items()}
    return dict(result.metrics) | errors


def main() -> int:
    """Print both runs, task by task; 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--tasks", default=",".join(SEVEN))
    parser.add_argument("--limit", type=int, default=100)
    options = parser.parse_args()
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    model, tokenizer = load_model(options.model, device="cpu")
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    results, equal = [], True
    print(f"{'task':<14} {'figure':<16} {'run_task':>22} {'lm_eval':>22}  equal")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["HF_DATASETS_CACHE"] = f"{folder}/datasets"
        for task in options.tasks.split(","):
            started = time.perf_counter()
            result = run_task(model, tokenizer, task, limit=options.limit)
            middle = time.perf_counter()
            theirs = plain(model, tokenizer, task, Path(folder), limit=options.limit)
            seconds = middle - started, time.perf_counter() - middle
            found = ours(result)
            for name in sorted(found.keys() | theirs.keys()):
                same = found.get(name) == theirs.get(name)
                equal &= same
                values = f"{found.get(name)!r:>22} {theirs.get(name)!r:>22}"
                print(f"{task:<14} {name:<16} {values}  {'yes' if same else 'NO'}")
            print(
                f"{task:<14} {result.rows}, {seconds[0]:.0f} s and {seconds[1]:.0f} s", flush=True
            )
            results.append(result)
    kept = all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    print(f"mean of {len(results)}: {average(results):.2f} %")
    print(f"figures equal: {equal}; weights unchanged: {kept}")
    return 0 if equal and kept else 1


if __name__ == "__main__":
    sys.exit(main())
