"""Sums over the samples of something that is taken of each by itself."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..progress import Progress
from .statistics import one_pass


class _Sums:
    """The reducer: Σ_n of what ``of_sample`` makes of the inputs (T, n) of sample n, by block and
    site."""

    def __init__(self, sites: Sequence[str], of_sample: Callable[[Tensor], Tensor]) -> None:
        self.sites, self._of_sample = sites, of_sample
        self.sums: dict[tuple[int, str], Tensor] = {}

    def take(self, block: int, site: str, x: Tensor) -> None:
        of_sample = self._of_sample(x.detach().flatten(0, -2))
        before = self.sums.get((block, site))
        self.sums[block, site] = of_sample if before is None else before + of_sample


@torch.no_grad()
def sums_over_samples(
    adapter: Adapter,
    calibration: CalibrationSet,
    sites: Sequence[str],
    of_sample: Callable[[Tensor], Tensor],
    progress: Progress,
) -> dict[tuple[int, str], Tensor]:
    """Σ_n of ``of_sample`` of the inputs (T, n) that the projections at ``sites`` have of sample n,
    by block and site; samples go through the model one by one. Raises InputError."""
    sums = _Sums(sites, of_sample)
    one_pass(adapter, calibration, sums, batch_size=1, progress=progress)
    return sums.sums
