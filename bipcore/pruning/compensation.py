"""Making up for what was cut: new output projections from statistics of the dense model.

Least squares refits from the second-moment matrices of what enters `o_proj` and `down_proj`. They
are large (H·h × H·h and F × F numbers a block), so they are collected only where asked for.
"""

from collections.abc import Callable
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

from ..criteria.statistics import Statistics, one_pass
from ..data.samples import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter, Block
from ..models.shapes import ModelShape
from ..progress import Progress
from ..specs import COMPENSATIONS
from ..store.kinds import Kind
from .plan import PruningPlan

SITES = ("o", "down")
SECOND_MOMENTS: Kind = Kind("second-moments", "second moments, what least squares refits from")


class SecondMoments:
    """mean_t X_tᵀX_t of the inputs of o (H·h × H·h) and down (F × F) of every block, float32.

    ``read(name)`` gives the matrix called "<block>.<site>"; from a file only what is asked for
    is read.
    """

    def __init__(self, read: Callable[[str], Tensor]) -> None:
        self._read = read

    def of(self, block: int, site: str) -> Tensor:
        """The matrix of one input of one block."""
        return self._read(f"{block}.{site}")

    @classmethod
    def from_file(cls, file: Path) -> "SecondMoments":
        """Those of a safetensors file, read one matrix at a time."""

        def read(name: str) -> Tensor:
            with safetensors.safe_open(file, framework="pt") as tensors:
                return tensors.get_tensor(name)

        return cls(read)


def second_moment_bytes(shape: ModelShape) -> int:
    """The memory that the matrices of a model of these sizes take, in bytes."""
    widths = [w for b in shape.blocks for w in (b.heads * shape.head_dim, b.channels)]
    return sum(4 * width**2 for width in widths)


class SecondMomentSums:
    """The reducer behind second moments: Σ_t X_tᵀX_t in float32, by name "<block>.<site>"."""

    sites = SITES

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}

    def take(self, block: int, site: str, x: Tensor) -> None:
        rows = x.detach().flatten(0, -2).float()  # (B·T, n), n may be 0
        name = f"{block}.{site}"
        if name not in self._sums:
            self._sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
        self._sums[name].addmm_(rows.T, rows)

    def result(self, tokens: int) -> dict[str, Tensor]:
        """Their means over ``tokens`` tokens, on the CPU; the sums are given up."""
        return {name: self._sums.pop(name).div_(tokens).cpu() for name in list(self._sums)}


def collect_second_moments(
    model: nn.Module,
    calibration: CalibrationSet,
    *,
    batch_size: int = 4,
    by_block: bool = False,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Run ``calibration`` through the blocks once; the matrices by name "<block>.<site>".

    `second_moment_bytes` says what they take, on the devices of the blocks. See
    `statistics.one_pass`, and for its errors too.
    """
    sums = SecondMomentSums()
    settings = {"batch_size": batch_size, "by_block": by_block, "progress": progress}
    message = "Second moments of the calibration set"
    one_pass(Adapter(model), calibration, sums, **settings, message=message)
    return sums.result(calibration.tokens.numel())


RIDGE = 1e-4
"""Added to the diagonal of the second moments, as a share of its mean."""


@torch.no_grad()
def compensate(
    pruned: nn.Module,
    dense: nn.Module,
    plan: PruningPlan,
    kind: str,
    *,
    statistics: Statistics | None = None,
    moments: SecondMoments | None = None,
    ridge: float = RIDGE,
) -> nn.Module:
    """Change `o_proj` and `down_proj` of ``pruned`` so that its blocks' outputs stay closer.

    ``pruned`` is ``dense`` with ``plan`` applied, and is returned. ``kind``: "none"; "bias" adds
    Σ_j mean(X_j)·W_:j over the removed inputs j (FLAP, arXiv 2312.11983), from ``statistics``;
    "least-squares" refits the columns that stay, from ``moments``. ``dense`` and the tensors
    shared with it are not touched. Raises InputError.
    """
    if kind not in COMPENSATIONS or kind == "auto":
        have = ", ".join(COMPENSATIONS[1:])
        raise InputError(f"There is no compensation {kind!r}; there are {have}.")
    if kind == "none":
        return pruned
    if (statistics if kind == "bias" else moments) is None:
        needs = "statistics" if kind == "bias" else "second moments"
        raise InputError(f"The compensation {kind!r} needs {needs}; collect them first.")
    blocks = zip(Adapter(pruned).blocks, Adapter(dense).blocks, plan.blocks, strict=True)
    for index, (block, before, keep) in enumerate(blocks):
        for site, kept in _kept_inputs(before, keep).items():
            new, old = block.sites[site], before.sites[site]
            if len(kept) == old.in_features:
                continue
            if kind == "bias":
                mean = getattr(statistics.blocks[index], site).mean
                _add_bias(new, missing_mean(old.weight, mean, kept))
            elif len(kept):
                fitted = refit(old.weight, moments.of(index, site), kept, ridge=ridge)
                new.weight = _parameter(fitted, new.weight)
    return pruned


def _kept_inputs(block: Block, keep) -> dict[str, Tensor]:
    """The inputs of o and of down that stay, by site."""
    heads, width = torch.tensor(keep.heads, dtype=torch.long), block.head_dim
    inputs = (heads[:, None] * width + torch.arange(width)).reshape(-1)
    return {"o": inputs, "down": torch.tensor(keep.channels, dtype=torch.long)}


def missing_mean(weight: Tensor, mean: Tensor, kept: Tensor) -> Tensor:
    """Σ_j mean_j·W_:j over the inputs j that are not kept: (d,), of W (d, n) and mean (n,)."""
    weight = _wide(weight)
    gone = torch.ones(len(mean), dtype=torch.bool)
    gone[kept] = False
    return weight[:, gone.to(weight.device)] @ mean[gone].to(weight)


def refit(weight: Tensor, moments: Tensor, kept: Tensor, *, ridge: float = RIDGE) -> Tensor:
    """The columns W' (d, k) for the ``kept`` inputs that come closest to the whole of W (d, n).

    Minimises mean_t ‖X_t W^T − X_tK W'^T‖² + λ‖W' − W_K‖² given the second moments G (n, n) of
    X: W' = W_K + W_R G_RK (G_KK + λI)^-1, with R the inputs that go and λ = ridge · mean diag
    G_KK. In float64.
    """
    weight = _wide(weight)
    moments, kept = moments.to(weight), kept.to(weight.device)
    gone = torch.ones(weight.shape[1], dtype=torch.bool, device=weight.device)
    gone[kept] = False
    rows = moments[kept]  # (k, n)
    among = rows[:, kept]
    among.diagonal().add_(ridge * among.diagonal().mean())
    wanted = rows[:, gone] @ weight[:, gone].T  # (k, d)
    factor, failed = torch.linalg.cholesky_ex(among)
    if failed:  # inputs that are always 0 or copies of others, and no ridge
        solved = torch.linalg.lstsq(among.cpu(), wanted.cpu(), driver="gelsd").solution
        change = solved.to(wanted.device)
    else:
        change = torch.cholesky_solve(wanted, factor)
    return weight[:, kept] + change.T


def _add_bias(linear: nn.Linear, extra: Tensor) -> None:
    old = 0 if linear.bias is None else _wide(linear.bias)
    linear.bias = _parameter(old + extra, linear.weight)


def _wide(values: Tensor) -> Tensor:
    """``values`` in float64, which mps does not have."""
    return (values.cpu() if values.device.type == "mps" else values).double()


def _parameter(values: Tensor, like: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(values.to(like).contiguous(), requires_grad=like.requires_grad)
