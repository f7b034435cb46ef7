"""Second-moment matrices of what enters `o_proj` and `down_proj`: what least squares refits from.

They are large (H·h × H·h and F × F numbers a block), so they are collected only where asked for.
"""

from collections.abc import Callable
from pathlib import Path

import psutil
import safetensors
import torch
from torch import Tensor, nn

from ..criteria.statistics import check_length
from ..data.calibration import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.hooks import capture_inputs, evaluation_mode
from ..models.shapes import ModelShape
from ..progress import Progress, silent

SITES = ("o", "down")


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


@torch.no_grad()
def collect_second_moments(
    model: nn.Module,
    calibration: CalibrationSet,
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Run ``calibration`` through the blocks once; the matrices by name "<block>.<site>".

    `second_moment_bytes` says what they take, on the devices of the blocks. Summed in float32.
    Raises InputError as `collect_statistics` does.
    """
    adapter = Adapter(model)
    check_length(adapter, calibration)
    if batch_size < 1:
        raise InputError(f"The batch size is at least 1, not {batch_size}.")
    modules = {f"{i}.{s}": b.sites[s] for i, b in enumerate(adapter.blocks) for s in SITES}
    sums: dict[str, Tensor] = {}
    report = progress or silent
    message = "Second moments of the calibration set"

    def add(name: str, x: Tensor) -> None:
        rows = x.detach().flatten(0, -2).float()  # (B·T, n), n may be 0
        if name not in sums:
            sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
        sums[name].addmm_(rows.T, rows)

    with evaluation_mode(model), capture_inputs(modules, add):
        for start in range(0, calibration.samples, batch_size):
            report(start / calibration.samples, message)
            batch = calibration.tokens[start : start + batch_size]
            adapter.run_blocks(batch.to(adapter.input_device))
    report(1.0, message)
    return {name: total.div_(calibration.tokens.numel()).cpu() for name, total in sums.items()}


def check_free(model: nn.Module, need: int) -> None:
    """Raise InputError where ``need`` bytes are more than the device of ``model`` has free."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
    else:
        free = psutil.virtual_memory().available
    if need > free:
        raise InputError(
            f"This takes {need / 2**30:,.1f} GiB of memory beside the model, and "
            f"{free / 2**30:,.1f} GiB are free; use a smaller model or another setting."
        )
