"""Streaming statistics of one forward pass: first and second moments of every projection's input.

No activation is kept: each is reduced over its tokens as it passes, so memory does not depend on
the number of samples. The statistics serve every activation criterion, and do not depend on one.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from ..data.samples import CalibrationSet
from ..errors import InputError
from ..models.adapters import SITES, Adapter, Block
from ..models.devices import widest
from ..models.finite import check_finite
from ..models.processes import Part, split
from ..models.running import Walk, capture_inputs, check_vocabulary, evaluation_mode
from ..models.streaming import device_of, is_streamed
from ..progress import Progress, silent
from ..store.kinds import Kind


@dataclass(frozen=True, eq=False)
class InputMoments:
    """Moments over all T·N calibration tokens of an input X with n channels; float64, (n,) each.

    ``mean_square`` is mean_t X_tj², ``mean`` mean_t X_tj and ``mean_abs`` mean_t |X_tj|. The last
    two are kept of the inputs of o and down only (None elsewhere): nothing uses the others.
    """

    mean_square: Tensor
    mean: Tensor | None = None
    mean_abs: Tensor | None = None


MOMENTS = {
    "qkv": ("mean_square",),
    "o": ("mean_square", "mean", "mean_abs"),
    "up": ("mean_square",),
    "down": ("mean_square", "mean", "mean_abs"),
}
"""The moments that are kept of each site's input."""


@dataclass(frozen=True, eq=False)
class BlockStatistics:
    """One block: the inputs of q/k/v (d), of o (H·h, X^H), of gate/up (d), of down (F, X^F)."""

    qkv: InputMoments
    o: InputMoments
    up: InputMoments
    down: InputMoments


@dataclass(frozen=True, eq=False)
class Statistics:
    """The statistics of all blocks over ``tokens`` calibration tokens, on the CPU.

    ``fingerprint`` is that of the calibration set, ``split`` the part of the text that it is of,
    and ``beginning`` where that has the beginning-of-text token.
    """

    blocks: tuple[BlockStatistics, ...]
    tokens: int
    fingerprint: str
    split: str = ""
    beginning: str = ""

    def to_tensors(self) -> dict[str, Tensor]:
        """A flat dictionary for safetensors; `from_tensors` reads it back."""
        tensors = {"tokens": torch.tensor(self.tokens)}
        for index, block in enumerate(self.blocks):
            for site in SITES:
                for name in MOMENTS[site]:
                    tensors[f"{index}.{site}.{name}"] = getattr(getattr(block, site), name)
        return tensors

    @classmethod
    def from_tensors(
        cls, tensors: dict[str, Tensor], fingerprint: str, split: str = "", beginning: str = ""
    ) -> "Statistics":
        """The inverse of `to_tensors`."""
        count = 1 + max(int(key.split(".")[0]) for key in tensors if "." in key)
        blocks = tuple(
            BlockStatistics(
                *(
                    InputMoments(*(tensors[f"{i}.{site}.{name}"] for name in MOMENTS[site]))
                    for site in SITES
                )
            )
            for i in range(count)
        )
        return cls(blocks, int(tensors["tokens"]), fingerprint, split, beginning)


STATISTICS = Kind(
    "statistics",
    "statistics of one forward pass",
    version=3,
    write=lambda found: (
        found.to_tensors(),
        {name: getattr(found, name) for name in ("fingerprint", "split", "beginning")},
    ),
    read=lambda tensors, data: Statistics.from_tensors(tensors, **data),
)


_TERMS = {
    "mean_square": lambda x, buffer: torch.mul(x, x, out=buffer),
    "mean": lambda x, buffer: x,
    "mean_abs": lambda x, buffer: torch.abs(x, out=buffer),
}
_CPU_ROWS = 512  # a part that stays in the cache while each sum reads it


class _Moments:
    """Running sums of one input: float32 over a part of a batch, float64 over the parts.

    ``scratch`` holds one buffer a shape, shared by all inputs: without it, allocating the
    intermediate results costs more than computing them. A product with a vector of ones is the
    fastest sum over rows.
    """

    def __init__(self, block: Block, site: str, scratch: dict) -> None:
        self.names, device = MOMENTS[site], device_of(block.module)
        sizes = len(self.names), block.sites[site].in_features
        self.sums = torch.zeros(sizes, dtype=widest(device), device=device)
        self.scratch = scratch

    def add(self, x: Tensor) -> None:
        x = x.detach().flatten(0, -2)  # (B·T, n), n may be 0
        for rows in x.split(_CPU_ROWS if x.device.type == "cpu" else len(x)):
            rows = rows.float()
            key = (rows.shape, rows.device)
            if key not in self.scratch:
                self.scratch[key] = torch.empty_like(rows), rows.new_ones(len(rows))
            buffer, ones = self.scratch[key]
            for total, name in zip(self.sums, self.names, strict=True):
                total += ones @ _TERMS[name](rows, buffer)

    def result(self, tokens: int) -> InputMoments:
        return InputMoments(*(self.sums.cpu().double() / tokens).unbind(0))


class Reducer(Protocol):
    """Reduces what enters the projections of blocks while they run."""

    sites: Sequence[str]
    """Which of `SITES` it takes."""

    def take(self, block: int, site: str, x: Tensor) -> None:
        """Count x (B, T, n), the input of one projection; it must not be changed or kept."""


class MomentSums:
    """The reducer behind `Statistics`, of ``blocks`` by their numbers.

    All sums are there before anything runs. Made on the way, they would lie in gaps that a block's
    activations have left: those of the next would not fit there again, and the process would grow
    with every block (by 0.7 GB in all on the demo model).
    """

    sites = SITES

    def __init__(self, blocks: Mapping[int, Block]) -> None:
        scratch: dict = {}
        self._moments = {
            (index, site): _Moments(block, site, scratch)
            for index, block in blocks.items()
            for site in SITES
        }

    def take(self, block: int, site: str, x: Tensor) -> None:
        self._moments[block, site].add(x)

    def add_up(self, part: Part) -> None:
        """Make them the sums of all processes, of which this one's ran on ``part``."""
        found = list(self._moments.values())
        for one, sums in zip(found, part.summed([one.sums for one in found]), strict=True):
            one.sums = sums

    def result(self, tokens: int) -> tuple[BlockStatistics, ...]:
        """The statistics of each block, over ``tokens`` tokens."""
        return tuple(
            BlockStatistics(*(self._moments[i, site].result(tokens) for site in SITES))
            for i in sorted({block for block, _ in self._moments})
        )


@contextmanager
def watching(blocks: Mapping[int, Block], *reducers: Reducer) -> Iterator[None]:
    """Within it ``reducers`` take everything that ``blocks``, by their numbers, are run on."""
    wanted = {site for reducer in reducers for site in reducer.sites}
    modules = {
        (number, site): block.sites[site]
        for number, block in blocks.items()
        for site in SITES
        if site in wanted
    }

    def take(key: tuple[int, str], x: Tensor) -> None:
        for reducer in reducers:
            if key[1] in reducer.sites:
                reducer.take(*key, x)

    with capture_inputs(modules, take):
        yield


@torch.no_grad()
def one_pass(
    adapter: Adapter,
    calibration: CalibrationSet,
    *reducers: Reducer,
    batch_size: int = 4,
    by_block: bool = False,
    progress: Progress | None = None,
    message: str = "Forward pass over the calibration set",
) -> None:
    """Run ``calibration`` through the blocks once; every one of ``reducers`` takes its inputs.

    ``batch_size`` is in samples. ``by_block``, and always where the model is streamed: all samples
    go through a block before the next, the hidden states of all samples being held, N·T·d numbers
    (see `BlockWalk`). The language-model head is not run, the model not changed. Raises InputError
    for samples longer than the model can read.
    """
    check_length(adapter, calibration)
    if batch_size < 1:
        raise InputError(f"The batch size is at least 1, not {batch_size}.")
    report = progress or silent
    with evaluation_mode(adapter.model):
        if by_block or is_streamed(adapter.model):
            walk = BlockWalk(adapter, calibration, batch_size=batch_size)
            for index in walk.blocks:
                report(index / len(adapter.blocks), message)
                walk.watch(index, *reducers, advance=True)
        else:
            with watching(dict(enumerate(adapter.blocks)), *reducers):
                for start in range(0, calibration.samples, batch_size):
                    report(start / calibration.samples, message)
                    batch = calibration.tokens[start : start + batch_size]
                    adapter.run_blocks(batch.to(adapter.input_device))
    report(1.0, message)


class BlockWalk(Walk):
    """A calibration set on its way through a model (see `Walk`), with reducers watching."""

    def __init__(self, adapter: Adapter, calibration: CalibrationSet, *, batch_size: int) -> None:
        check_length(adapter, calibration)
        if batch_size < 1:
            raise InputError(f"The batch size is at least 1, not {batch_size}.")
        super().__init__(adapter, calibration.tokens, batch_size=batch_size)

    def watch(self, index: int, *reducers: Reducer, advance: bool = False) -> None:
        """Run block ``index`` with ``reducers`` watching; with ``advance`` go on behind it."""
        with watching({index: self.adapter.blocks[index]}, *reducers):
            self.step(index, advance=advance)


def collect_statistics(
    model: nn.Module,
    calibration: CalibrationSet,
    *,
    batch_size: int = 4,
    by_block: bool = False,
    progress: Progress | None = None,
) -> Statistics:
    """Run ``calibration`` through the blocks of ``model`` once and keep each input's moments.

    Several processes share the samples where they work in step (see `processes`). See `one_pass`.
    Raises InputError for an unsupported model, or samples longer than it can read.
    """
    adapter, count = Adapter(model), calibration.tokens.numel()
    sums = MomentSums(dict(enumerate(adapter.blocks)))
    aligned = _CPU_ROWS // math.gcd(_CPU_ROWS, calibration.seq_len)
    part = split(calibration.samples, batch_size, aligned)
    settings = {"batch_size": batch_size, "by_block": by_block, "progress": progress}
    one_pass(adapter, calibration.only(part.own), sums, **settings)
    sums.add_up(part)
    found = sums.result(count)
    for block in found:
        for site in SITES:
            check_finite(getattr(block, site).mean_square, "An activation", model)
    said = (calibration.fingerprint, calibration.split, calibration.beginning)
    return Statistics(found, count, *said)


def check_length(adapter: Adapter, calibration: CalibrationSet) -> None:
    """Raise InputError where samples are longer than the model's positions, or ids too large."""
    limit = getattr(adapter.model.config, "max_position_embeddings", None)
    if limit and calibration.seq_len > limit:
        raise InputError(
            f"Samples of {calibration.seq_len} tokens are longer than the {limit} positions "
            "of the model; ask for a shorter sequence length."
        )
    check_vocabulary(adapter.model, calibration.tokens)
