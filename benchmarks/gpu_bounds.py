"""What may differ between a device in half precision and the CPU in float32, and why: the bounds of
`gpu.py`."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bipcore.criteria import Scores
from bipcore.criteria.statistics import Statistics
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.comparison import compare_criteria, over_all_blocks

SPARSITY = 0.25


@dataclass(frozen=True)
class Check:
    """A figure and its bound: at most ``limit``; or at least, where it is ``least``."""

    what: str
    value: float
    limit: float
    least: bool = False

    @property
    def holds(self) -> bool:
        return self.value >= self.limit if self.least else self.value <= self.limit

    def __str__(self) -> str:
        word, broken = "at least" if self.least else "at most", "" if self.holds else "  BROKEN"
        return f"{self.what} {self.value:.4g} ({word} {self.limit:.4g}){broken}"


class Bounds:
    """What may differ between a device in ``dtype`` and the CPU in float32, for L ``blocks``.

    ``u``: the rounding of one number, half an epsilon: 0.004 in bfloat16.
    """

    def __init__(self, dtype: torch.dtype, blocks: int) -> None:
        u = torch.finfo(dtype).eps / 2
        # Weights are bfloat16's own on both sides. Each block rounds what it adds, independently,
        # so √L of them add up; 4 for the dozen roundings within one. Float32 differs by the order
        # of its sums, about 1e-6, for which 1e-4 leaves room.
        self.logits = max(4 * u * math.sqrt(blocks), 1e-4)
        # Errors of single activations average out over the tokens; those that all share do not.
        self.scores = self.logits
        # Random channels' scores spread by a few per cent, here 3: with independent errors of u
        # Spearman's correlation is 1 - (u / spread)² / 2, and what is nearer to the cut than its
        # error, a share of u / spread, may change sides.
        beside = max(u, 1e-4) / 0.03
        self.correlation, self.common = 1 - beside**2 / 2, 1 - beside
        # A refit solves with the errors of its moments, and may take the next ridge.
        self.pruned = 2 * self.logits
        # The mean over thousands of tokens of errors of either sign.
        self.loss = self.logits / 4
        # In standard deviations of the logits: two that are each off by at most 5 of their errors.
        self.choice = 10 * self.logits
        # The same weights on the same device; zeros that fill up may change the order of sums.
        self.again = max(4 * u, 1e-6)


def difference(found: Tensor, expected: Tensor) -> float:
    """‖found − expected‖ / ‖expected‖."""
    return float((found - expected).double().norm() / expected.double().norm())


def worst(values: Iterable[float]) -> float:
    """The greatest; NaN where one is."""
    return float(torch.tensor([*values]).max())


def moments_apart(found: Statistics, expected: Statistics) -> float:
    """The worst over all blocks and sites, of mean squares and means of absolute values."""
    one, other = (statistics.to_tensors() for statistics in (found, expected))
    names = [name for name in one if name.endswith(("mean_square", "mean_abs"))]
    return worst(difference(one[name], other[name]) for name in names)


def score_checks(found: dict[str, Scores], expected: dict[str, Scores], bounds: Bounds) -> list:
    """The worst over all criteria and blocks."""
    apart, correlation, common = [], [], []
    for name in found:
        both = found[name], expected[name]
        for one, other in zip(*(scores.blocks for scores in both), strict=True):
            apart += [difference(getattr(one, k), getattr(other, k)) for k in ("heads", "ffn")]
        named = {str(i): (one, make_plan(one, sparsity=SPARSITY)) for i, one in enumerate(both)}
        frame = compare_criteria(named)
        correlation.append(frame[frame["kind"] == "channel"]["rank_correlation"].min(skipna=False))
        common.append(over_all_blocks(frame)["share"].min())
    return [
        Check("scores differ by", worst(apart), bounds.scores),
        Check("channels' rank correlation", min(correlation), bounds.correlation, least=True),
        Check("share removed by both", min(common), bounds.common, least=True),
    ]
