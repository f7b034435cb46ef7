"""How near scores in half precision are to those in float32, for every criterion.

    python benchmarks/half_precision.py                            # demo model and a tiny one
    python benchmarks/half_precision.py --models MODEL --device cuda --samples 32 --seq-len 256

The model is rounded to the type, run in it on the same calibration tokens, and scored; nothing is
emulated. A line a criterion and kind of unit: Spearman's rank correlation with the scores in
float32, the mean over the blocks and the least; and how much of what two plans keep is the same, at
20 % and at 50 %: plans with the same widths in every block, or of what a criterion ranks as a
whole; "-" where that is not possible, or all of a block has one score. "tiny" is a random model of
three blocks. CPUs are slow in half precision, so by default there are few tokens, and what
searches is run on the tiny model alone.
"""

import argparse
import contextlib
import copy
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from random_model import write

from bipcore.criteria import CRITERIA, Scores, score
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.calibration import load_calibration
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from bipcore.models.loading import load_model
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.comparison import UNIT_KINDS, compare_plans, rank_correlations
from bipcore.pruning.resolving import BY_RANK

SPARSITIES = (0.2, 0.5)
RUNS = [(name, {}) for name, one in CRITERIA.items() if one.needs != "nothing"]
RUNS.insert(1 + [name for name, _ in RUNS].index("llm-pruner"), ("llm-pruner", {"order": 2}))
"""Criteria and their options: all but the random one."""


def scored(model: nn.Module, calibration: CalibrationSet, *, search: bool) -> Iterator[Scores]:
    """The scores of every one of `RUNS`, of those that search only with ``search``."""
    statistics = collect_statistics(model, calibration)
    for name, options in RUNS:
        if search or CRITERIA[name].needs != "search":
            yield score(model, statistics, name, calibration=calibration, **options)


def compare(exact: Scores, half: Scores) -> None:
    """Print the lines of one criterion."""
    orders = rank_correlations({"float32": exact, "half": half})
    frames = [kept(exact, half, sparsity) for sparsity in SPARSITIES]
    name = exact.criterion + (" order 2" if exact.options.get("order") == 2 else "")
    for kind in UNIT_KINDS:
        found = orders[orders["kind"] == kind]["rank_correlation"].dropna()
        words = [f"{v:8.5f}" if len(found) else f"{'-':>8}" for v in (found.mean(), found.min())]
        for frame in frames:
            sums = {} if frame is None else frame[frame["kind"] == kind].sum(numeric_only=True)
            words.append(f"{same_share(**sums):8.2%}" if len(sums) else f"{'-':>8}")
        print(f"{name:24} {kind:8} {' '.join(words)}", flush=True)


def kept(exact: Scores, half: Scores, sparsity: float) -> pandas.DataFrame | None:
    """What plans made of both keep; None where there is none of this sparsity."""
    ranked = CRITERIA[exact.criterion].allocation in BY_RANK
    how = {"sparsity": sparsity, "allocation": "auto" if ranked else "uniform"}
    with contextlib.suppress(InputError):
        return compare_plans(make_plan(exact, **how), make_plan(half, **how))
    return None


def same_share(kept_by_both: int, only_first: int, only_second: int, **others: int) -> float:
    """How much of what two plans keep on average both keep."""
    return kept_by_both / (kept_by_both + (only_first + only_second) / 2)


def measure(source: str, options: argparse.Namespace) -> None:
    """Print the tables of one model."""
    name = Path(source).name
    how = {"device": options.device, "dtype": "float32"}
    model, tokenizer = load_model(source, **how)
    calibration = load_calibration(
        options.calibration, tokenizer, samples=options.samples, seq_len=options.seq_len, seed=0
    )
    exact = list(scored(model, calibration, search=name == "tiny"))
    for dtype in options.dtypes:
        start = time.perf_counter()
        half = copy.deepcopy(model).to(getattr(torch, dtype))
        tokens = f"{options.samples} x {options.seq_len} tokens of {options.calibration}"
        print(f"\n{name} in {dtype} on {options.device}, {tokens}")
        print(f"{'':24} {'':8} {'mean ρ':>8} {'least ρ':>8} {'20 %':>8} {'50 %':>8}")
        for one, other in zip(exact, scored(half, calibration, search=name == "tiny"), strict=True):
            compare(one, other)
        print(f"{time.perf_counter() - start:,.0f} s", flush=True)


def main() -> None:
    """Run what the options ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=["demo", "tiny"])
    parser.add_argument("--dtypes", nargs="+", default=["bfloat16", "float16"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--calibration", default="builtin")
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--seq-len", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.models:
            own = str(write(Path(folder, "tiny"), "tiny")) if name == "tiny" else name
            measure(own, options)


if __name__ == "__main__":
    main()
