"""How many outliers a block has, for the allocation that gives each block its own share by it."""

import torch

from ..models.adapters import Adapter
from ..models.devices import widest
from .statistics import Statistics

OUTLIER = 5.0
"""So many times the mean of its block makes a score an outlier (OWL's M)."""


@torch.no_grad()
def outlier_shares(adapter: Adapter, statistics: Statistics) -> tuple[float, ...]:
    """For each block, the share of its projections' weights whose Wanda score |W_ij|·‖X_j‖₂ is
    more than `OUTLIER` times the mean of the block's (OWL, arXiv 2310.05175)."""
    found = []
    for block, of_block in zip(adapter.blocks, statistics.blocks, strict=True):
        weights, inputs = block.weights(), {}
        for site, names in _READERS.items():
            norm = getattr(of_block, site).mean_square.sqrt()  # a factor √tokens cancels
            inputs |= dict.fromkeys(names, norm)
        matrices = {name: getattr(weights, name) for name in inputs}
        scores = [w.abs() * inputs[n].to(w) for n, w in matrices.items() if w is not None]
        count = sum(one.numel() for one in scores)
        mean = sum(float(one.sum(dtype=widest(one.device))) for one in scores) / count
        found.append(sum(int((one > OUTLIER * mean).sum()) for one in scores) / count)
    return tuple(found)


_READERS = {"qkv": ("q", "k", "v"), "o": ("o",), "up": ("gate", "up"), "down": ("down",)}
