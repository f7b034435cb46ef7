"""What share of each block goes, where blocks differ: small pure functions, one an allocation.

Each takes one number a block, in order, and the share that goes on average, and returns one share a
block of that mean; `met` then makes them meet the target exactly, with no block beyond its bounds.
"""

import math
from collections.abc import Callable, Sequence

from ..errors import InputError

FIRST = 0.3125
"""The first block's share of the mean share: SlimGPT's 0.0625 at 20 % (arXiv 2412.18110)."""

OWL_SPREAD = 0.08
"""How far a block may be from the mean: OWL's λ (arXiv 2310.05175)."""


def log_increase(blocks: Sequence[float], share: float) -> list[float]:
    """r_i = r_0 + (r_last − r_0)·log(i + 1)/log n, with r_0 the share `FIRST` of the mean, and
    r_last such that the mean is ``share`` (SlimGPT). The numbers of the blocks do not count."""
    return _increasing([math.log(i + 1) for i in range(len(blocks))], share)


def linear_increase(blocks: Sequence[float], share: float) -> list[float]:
    """r_i = r_0 + (r_last − r_0)·i/(n − 1), r_0 and r_last as in `log_increase`."""
    return _increasing([float(i) for i in range(len(blocks))], share)


def _increasing(heights: list[float], share: float) -> list[float]:
    mean = sum(heights) / len(heights)
    if not mean:  # one block
        return [share] * len(heights)
    return [share * (FIRST + (1 - FIRST) * height / mean) for height in heights]


def owl(blocks: Sequence[float], share: float) -> list[float]:
    """Less from blocks with more outliers (OWL): ``blocks`` are the shares of outliers D; from each
    goes share − (z − mean z), z = 2λ·(D − min D)/(max D − min D), λ `OWL_SPREAD`."""
    return _against(blocks, share, OWL_SPREAD)


def block_influence(blocks: Sequence[float], share: float) -> list[float]:
    """Less from blocks that change the hidden states more: ``blocks`` are ShortGPT's influences
    (arXiv 2403.03853), spread as `owl` does, with λ half the share, as FANG does."""
    return _against(blocks, share, share / 2)


def _against(blocks: Sequence[float], share: float, spread: float) -> list[float]:
    lowest, width = min(blocks), max(blocks) - min(blocks)
    if not width:
        return [share] * len(blocks)
    heights = [2 * spread * (value - lowest) / width for value in blocks]
    mean = sum(heights) / len(heights)
    return [share - (height - mean) for height in heights]


SHARES: dict[str, Callable[[Sequence[float], float], list[float]]] = {
    "log": log_increase,
    "linear": linear_increase,
    "owl": owl,
    "block-influence": block_influence,
}
"""The functions by the names of their allocations."""


def met(
    shares: Sequence[float], sizes: Sequence[float], share: float, most: Sequence[float]
) -> list[float]:
    """``shares`` moved up or down together until what goes is ``share`` of all ``sizes``, each kept
    from 0 to its own of ``most``. Raises InputError where all of ``most`` is not enough."""

    def moved(by: float) -> list[float]:
        return [min(max(one + by, 0.0), limit) for one, limit in zip(shares, most, strict=True)]

    def gone(of: Sequence[float]) -> float:
        return sum(one * size for one, size in zip(of, sizes, strict=True))

    wanted = share * sum(sizes)
    if gone(most) < wanted * (1 - 1e-12):
        raise InputError(
            f"The sparsity asks the blocks to give up {share:.1%} of their parameters, but they "
            f"can give up at most {gone(most) / sum(sizes):.1%}, one attention unit and one "
            "channel being kept; ask for less, protect fewer blocks, or take another attention "
            "unit."
        )
    low, high = -max(shares), max(most) - min(shares)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if gone(moved(middle)) < wanted else (low, middle)
    return moved(high)
