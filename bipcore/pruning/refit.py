"""Refitting a projection on the inputs that stay, and choosing how strongly to hold it back."""

import torch
from torch import Tensor

RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""The ridges that are tried, as shares of each input's mean square."""

TOKENS_A_CHANNEL = 3
"""With fewer calibration tokens than so many for an input that stays, a refit is mostly noise."""


def refit(weight: Tensor, moments: Tensor, kept: Tensor, *, ridge: float) -> Tensor:
    """The columns W' (d, k) for the ``kept`` inputs that come closest to the whole of W (d, n).

    Minimises mean_t ‖X_t W^T − X_tK W'^T‖² + Σ_j λ_j‖W'_:j − W_:j‖² given the second moments G
    (n, n) of X: W' = W_K + W_R G_RK (G_KK + diag λ)^-1, with R the inputs that go and
    λ_j = ridge · max(G_jj, median of diag G_KK): a share of each input's own mean square, so that
    loud ones are held back like others, but inputs that were nearly silent in the calibration
    text, and may not be elsewhere, like the typical one. In float64.
    """
    weight = wide(weight)
    fit = _Fit(weight, moments.to(weight), kept.to(weight.device), moments.diagonal())
    change = fit.change(ridge)
    if change is None:  # inputs that are always 0 or copies of others, and no ridge
        among, wanted = fit.among.cpu(), fit.wanted.cpu()
        change = torch.linalg.lstsq(among, wanted, driver="gelsd").solution.to(weight)
    return weight[:, fit.kept] + change.T


def refit_held_out(
    weight: Tensor, moments: Tensor, kept: Tensor, *, held_out: Tensor, tokens: int
) -> tuple[Tensor, float | None]:
    """`refit` with the ridge of `RIDGES` that does best on tokens it was not fitted on, and which.

    ``moments`` are means over ``tokens`` tokens, the last of which are ``held_out`` (m, n), the
    inputs themselves. The fits to choose from, in float32, are without those; the one that is
    chosen is then made of all. Where none is better on them than the weights as they were, these
    are returned, and None.
    """
    held_out, narrow = wide(held_out), weight.detach().float()
    without = _without(moments, held_out, tokens).to(narrow)
    fit = _Fit(narrow, without, kept.to(narrow.device), moments.diagonal())
    del without  # as large as all else together
    missing = held_out[:, fit.gone.to(held_out.device)].to(narrow) @ narrow[:, fit.gone].T  # (m, d)
    inputs = held_out[:, kept.to(held_out.device)].to(narrow)  # (m, k)
    best, least = None, missing.square().sum()
    for ridge in RIDGES:
        change = fit.change(ridge)
        if change is not None and (error := (inputs @ change - missing).square().sum()) < least:
            best, least = ridge, error
    if best is None:
        return wide(weight)[:, kept.to(wide(weight).device)], None
    return refit(weight, moments, kept, ridge=best), best


def _without(moments: Tensor, held_out: Tensor, tokens: int) -> Tensor:
    """The mean products (n, n) over ``tokens`` tokens but for those ``held_out`` (m, n), in the
    type of these: one matrix is held beside ``moments``."""
    total = moments.to(held_out, copy=True).mul_(tokens)
    return total.addmm_(held_out.T, held_out, alpha=-1).div_(tokens - len(held_out))


class _Fit:
    """The normal equations of a refit, to be solved for several ridges: ``among`` (k, k) the inputs
    that are ``kept``, and ``wanted`` (k, d) of them for those that are ``gone``.

    ``squares`` (n,): the mean squares of the inputs, of which the ridges are shares.
    """

    def __init__(self, weight: Tensor, moments: Tensor, kept: Tensor, squares: Tensor) -> None:
        self.kept = kept
        self.gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
        self.gone[kept] = False
        rows = moments[kept]  # (k, n)
        self.among = rows[:, kept]
        self.wanted = rows[:, self.gone] @ weight[:, self.gone].T
        squares = squares.to(weight)[kept]
        self._scale = squares.clamp_min(squares.median())  # (k,)

    def change(self, ridge: float) -> Tensor | None:
        """W'ᵀ − W_Kᵀ, (k, d); None where the equations cannot be solved as they are."""
        among = self.among.clone()
        among.diagonal().add_(ridge * self._scale)
        factor, failed = torch.linalg.cholesky_ex(among)
        return None if failed else torch.cholesky_solve(self.wanted, factor)


def wide(values: Tensor) -> Tensor:
    """``values`` in float64, which mps does not have."""
    return (values.cpu() if values.device.type == "mps" else values).detach().double()
