"""How long the list of all runs takes, for a store of 2,000 entries, some with tensors.

    PYTHONPATH=. python benchmarks/run_list.py [entries]

The entries are made in a temporary folder by the run store itself, with specs of the form that
evaluations, sweep points and scores have. Prints seconds: the first list, the best of five, and
how long the processor worked for that one, whatever else the machine does.
"""

import sys
import tempfile
import time
from pathlib import Path

import torch

from bipcore.criteria.base import SCORES
from bipcore.evaluation.metrics import EVALUATIONS
from bipcore.kinds import KINDS
from bipcore.store.kinds import Kind, stored_as_it_is
from bipcore.store.runs import RunStore
from bipcore.studies.points import POINTS
from bipcore.studies.runs import list_runs
from bipcore.studies.tradeoffs import groups
from bipcore.views.runs import runs_frame

MODEL = {"name": "someone/some-model", "content": "0" * 64, "dtype": "float32"}
TEXT = {"text": "wikitext2", "window": 512, "max_tokens": 4096, "content": "1" * 64}
CALIBRATION = {"source": "c4", "samples": 32, "seq_len": 256, "seed": 0, "content": "2" * 64}
PLAN = {"criterion": "llm-bip", "sparsity": 0.2, "unit": "head", "allocation": "uniform"}


def fill(store: RunStore, entries: int) -> None:
    """So many entries: half of them evaluations, a quarter points, a quarter scores."""
    plain = stored_as_it_is(SCORES.name, version=SCORES.version)
    for number in range(entries):
        kind, spec, result, made = _entry(number, plain)
        store.get(kind, spec, lambda result=result: result, lambda made=made: made)


def _entry(number: int, plain: Kind) -> tuple:
    if number % 4 == 3:
        calibration = CALIBRATION | {"seed": number}
        spec = {"model": MODEL, "calibration": calibration, "criterion": "llm-bip", "options": {}}
        return plain, spec, ({"block": torch.ones(20_000)}, {"criterion": "llm-bip"}), {}
    cost = {"parameters": 10**8, "macs": 10**10, "seq_len": 512}
    if number % 4 == 2:
        scores = {"model": MODEL, "criterion": "llm-bip", "options": {}, "calibration": CALIBRATION}
        plan = PLAN | {"sparsity": number / 10_000, "compensation_calibration": None}
        spec = {"scores": scores, "plan": plan, "texts": ["t"], "profile": None}
        data = cost | {"perplexity": {"t": 30.0}, "seconds": 1.0}
        return POINTS, spec, data, {"label": "llm-bip", "texts": {"t": TEXT}}
    spec = {"model": MODEL, "plan": f"{number:016x}", "evaluation": TEXT}
    made = {"cost": cost, "plan": {"spec": PLAN, "realised": 0.2, "realised_total": 0.1}}
    return EVALUATIONS, spec, {"perplexity": 30.0 + number, "tokens": 4096}, made


def main() -> None:
    """Fill a store and list it."""
    entries = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    with tempfile.TemporaryDirectory() as folder:
        store, took = RunStore(Path(folder) / "store"), []
        fill(store, entries)
        for _ in range(6):
            started, worked = time.perf_counter(), time.process_time()
            runs = list_runs(store, KINDS)
            took.append((time.perf_counter() - started, time.process_time() - worked))
        started = time.perf_counter()
        frame = runs_frame(runs)
        table = time.perf_counter() - started
        started = time.perf_counter()
        found = groups(runs)
        grouping = time.perf_counter() - started
    best, work = min(took[1:])
    print(f"{len(runs):,} entries: first list {took[0][0]:.2f} s, best of five {best:.2f} s")
    print(f"of which the processor worked {work:.2f} s")
    print(f"the table of {len(frame):,} rows: {table:.2f} s")
    print(f"what may be compared, {len(found[0].points):,} points: {grouping:.2f} s")


if __name__ == "__main__":
    main()
