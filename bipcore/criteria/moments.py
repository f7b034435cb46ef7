"""Second moments: what least squares refits from.

They are large (H·h × H·h and F × F numbers a block), so they are collected only where asked for,
and one block after the other.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors
import torch
from torch import Tensor, nn

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..models.finite import check_finite
from ..models.processes import EVERYTHING, Part, split
from ..models.running import evaluation_mode
from ..models.shapes import ModelShape
from ..progress import Progress, silent
from ..store.kinds import Kind
from .statistics import BlockWalk

SITES = ("o", "down")
SECOND_MOMENTS: Kind = Kind(
    "second-moments", "second moments, what least squares refits from", version=4
)
MOST_HELD_OUT = 1024


def count_held_out(tokens: int) -> int:
    """How many of so many calibration tokens, the last ones, choose a ridge: a fifth, at most
    `MOST_HELD_OUT`."""
    return min(tokens // 5, MOST_HELD_OUT)


@dataclass(frozen=True, eq=False)
class InputSample:
    """The inputs X of one projection: ``moments`` mean_t X_tᵀX_t (n, n) over ``tokens`` tokens, and
    ``held_out`` (m, n), X itself at the last of them."""

    moments: Tensor
    held_out: Tensor
    tokens: int


class SecondMoments:
    """mean_t X_tᵀX_t of the inputs of o (H·h × H·h) and down (F × F) of every block, float32.

    ``read(name)`` gives the matrix called "<block>.<site>", the inputs "<block>.<site>.held" that
    are held out, and the number of "tokens"; from a file only what is asked for is read.
    """

    def __init__(self, read: Callable[[str], Tensor]) -> None:
        self._read = read

    def of(self, block: int, site: str) -> Tensor:
        """The matrix of one input of one block."""
        return self._read(f"{block}.{site}")

    def sample(self, block: int, site: str) -> InputSample:
        """The matrix, and the inputs that are held out."""
        held_out = self._read(f"{block}.{site}.held")
        return InputSample(self.of(block, site), held_out, self.tokens)

    @property
    def tokens(self) -> int:
        """The calibration tokens behind them."""
        return int(self._read("tokens"))

    @classmethod
    def from_files(cls, files: Iterable[Path]) -> "SecondMoments":
        """Those in safetensors files, of one or more blocks each, read one matrix at a time.

        They stay open, so that they may be removed meanwhile. Raises FileNotFoundError.
        """
        held = {}
        for file in files:
            opened = safetensors.safe_open(file, framework="pt")
            held |= dict.fromkeys(opened.keys(), (file, opened))

        def read(name: str) -> Tensor:
            file, opened = held[name]
            with contextlib.suppress(FileNotFoundError):
                # what was read through one opening stays in memory until that is closed
                opened = safetensors.safe_open(file, framework="pt")
            return opened.get_tensor(name)

        return cls(read)


def second_moment_bytes(shape: ModelShape, tokens: int) -> list[int]:
    """The bytes that the tensors of each block of a model of these sizes take."""
    held_out = count_held_out(tokens)
    widths = [(block.heads * shape.head_dim, block.channels) for block in shape.blocks]
    return [sum(4 * width * (width + held_out) for width in both) for both in widths]


class SecondMomentSums:
    """The reducer behind second moments: Σ_t X_tᵀX_t in float32, by name "<block>.<site>", over
    ``tokens`` tokens, and X at the last of them. ``part``: which of the samples it is run on, where
    several processes share them.
    """

    sites = SITES

    def __init__(self, tokens: int, part: Part = EVERYTHING) -> None:
        self._tokens, self._part = tokens, part
        self._before = tokens * part.start // part.total
        self._sums: dict[str, Tensor] = {}
        self._held: dict[str, list[Tensor]] = {}
        self._seen: dict[str, int] = {}

    def take(self, block: int, site: str, x: Tensor) -> None:
        rows = x.detach().flatten(0, -2).float()  # (B·T, n), n may be 0
        name = f"{block}.{site}"
        if name not in self._sums:
            self._sums[name] = rows.new_zeros(rows.shape[1], rows.shape[1])
            self._held[name], self._seen[name] = [], self._before
        self._sums[name].addmm_(rows.T, rows)
        fitted = self._tokens - count_held_out(self._tokens)
        self._held[name].append(rows[max(fitted - self._seen[name], 0) :].clone())
        self._seen[name] += len(rows)

    def result(self, tokens: int) -> dict[str, Tensor]:
        """Their means over ``tokens`` tokens, on the CPU; the sums are given up."""
        found = {"tokens": torch.tensor(tokens)}
        for name in list(self._sums):
            own = self._sums.pop(name), self._among_all(torch.cat(self._held.pop(name)))
            sums, found[f"{name}.held"] = (one.cpu() for one in self._part.summed(own))
            found[name] = sums.div_(tokens)
        return found

    def _among_all(self, held: Tensor) -> Tensor:
        """The inputs that this process held out, where they stand among those of all, which are 0:
        added up, the processes' give what is held out, in its order."""
        if self._part.is_all:
            return held
        count = count_held_out(self._tokens)
        first = max(self._before - (self._tokens - count), 0)
        whole = held.new_zeros(count, held.shape[1])
        whole[first : first + len(held)] = held
        return whole


@torch.no_grad()
def second_moments_by_block(
    model: nn.Module,
    calibration: CalibrationSet,
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> Iterator[dict[str, Tensor]]:
    """Walk ``calibration`` through the blocks once; what `SecondMoments` reads of each, by name.

    Only one block's are held at a time: `second_moment_bytes` says what they take, where the block
    runs. Several processes share the samples where they work in step (see `processes`). See
    `statistics.BlockWalk`, and for its errors too.
    """
    part = split(calibration.samples, batch_size)
    adapter, report = Adapter(model), progress or silent
    tokens, message = calibration.tokens.numel(), "Second moments of the calibration set"
    with evaluation_mode(model):
        walk = BlockWalk(adapter, calibration.only(part.own), batch_size=batch_size)
        for index in walk.blocks:
            report(index / len(walk.blocks), message)
            sums = SecondMomentSums(tokens, part)
            walk.watch(index, sums, advance=True)
            found = sums.result(tokens)
            for name in (f"{index}.{site}" for site in SITES):
                check_finite(found[name].diagonal(), "An activation", model)
            yield found
    report(1.0, message)


def collect_second_moments(
    model: nn.Module,
    calibration: CalibrationSet,
    *,
    batch_size: int = 4,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """Those of all blocks at once, by name (see `second_moments_by_block`)."""
    settings = {"batch_size": batch_size, "progress": progress}
    found: dict[str, Tensor] = {}
    for of_block in second_moments_by_block(model, calibration, **settings):
        found |= of_block
    return found
