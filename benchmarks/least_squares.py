"""The error of least squares on text that it was not fitted on, against that of no refit.

    python benchmarks/least_squares.py --tokens 512,2048,8192 --fresh wikitext2

For each number of calibration tokens a line with the error of the output projections on the fresh
tokens, as a share of what it is without a refit: in the mean over the projections, and the worst.
Below 1 the refit helps. The fresh samples are of the calibration text, which they are drawn from
with another seed, and of the text ``--fresh``.
"""

import argparse

import torch
from torch import Tensor, nn

from bipcore.criteria import score
from bipcore.criteria.moments import SITES, SecondMoments, collect_second_moments
from bipcore.criteria.statistics import collect_statistics, watching
from bipcore.data.calibration import load_calibration
from bipcore.data.samples import CalibrationSet
from bipcore.models.adapters import Adapter
from bipcore.models.loading import load_model
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.compensation import compensate
from bipcore.pruning.slicing import apply_plan

LENGTH = 256


class _Errors:
    """A reducer: Σ‖X Wᵀ − X_K W'ᵀ‖² of every output projection, with and without the refit."""

    sites = SITES

    def __init__(self, dense: Adapter, fitted: Adapter, sliced: Adapter, kept: dict) -> None:
        self.models, self.kept = (dense, fitted, sliced), kept
        self.sums: dict[tuple[int, str], list[float]] = {}

    def take(self, block: int, site: str, x: Tensor) -> None:
        dense, *pruned = (model.blocks[block].sites[site] for model in self.models)
        if len(self.kept[block, site]) == dense.in_features:
            return
        x = x.detach().flatten(0, -2)
        wanted = x @ dense.weight.T
        sums = self.sums.setdefault((block, site), [0.0, 0.0])
        for index, linear in enumerate(pruned):
            found = x[:, self.kept[block, site]] @ linear.weight.T
            sums[index] += float((found - wanted).double().square().sum())


@torch.no_grad()
def main() -> None:
    """Measure and print."""
    options = _options()
    model, tokenizer = load_model(options.model)
    how = {"samples": options.samples, "seq_len": LENGTH}
    texts = {
        name: load_calibration(name, tokenizer, seed=1 + options.seed, **how)
        for name in dict.fromkeys((options.calibration, options.fresh))
    }
    for count in map(int, options.tokens.split(",")):
        how = {"samples": max(count // LENGTH, 1), "seq_len": min(count, LENGTH)}
        tokens = load_calibration(options.calibration, tokenizer, seed=options.seed, **how)
        scores = score(model, collect_statistics(model, tokens), "flap")
        plan = make_plan(scores, sparsity=options.sparsity, allocation="uniform")
        moments = SecondMoments(collect_second_moments(model, tokens).__getitem__)
        sliced, fitted = (apply_plan(model, plan) for _ in range(2))
        compensate(fitted, model, plan, "least-squares", moments=moments)
        for name, fresh in texts.items():
            ratios = _ratios(model, fitted, sliced, plan, fresh)
            print(
                f"{count:6d} tokens of {options.calibration}, on fresh {name}: "
                f"mean {ratios.mean():.3f}, worst {ratios.max():.3f}, "
                f"above 1: {int((ratios > 1).sum())} of {len(ratios)}",
                flush=True,
            )


def _ratios(
    dense: nn.Module, fitted: nn.Module, sliced: nn.Module, plan, fresh: CalibrationSet
) -> Tensor:
    adapters = [Adapter(model) for model in (dense, fitted, sliced)]
    width = adapters[0].shape.head_dim
    kept = {}
    for index, block in enumerate(plan.blocks):
        kept[index, "o"] = [head * width + i for head in block.heads for i in range(width)]
        kept[index, "down"] = list(block.channels)
    errors = _Errors(*adapters, kept)
    with watching(dict(enumerate(adapters[0].blocks)), errors):
        for batch in fresh.tokens.split(4):
            adapters[0].run_blocks(batch)
    return torch.tensor([after / before for after, before in errors.sums.values()])


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="demo")
    parser.add_argument("--calibration", default="builtin")
    parser.add_argument("--fresh", default="wikitext2")
    parser.add_argument("--tokens", default="512,2048,8192")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
