"""What a model costs: parameters, multiply-accumulates, latency, throughput, peak memory."""

import math
import os
import platform
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models.adapters import Adapter
from ..models.devices import resolve_device
from ..models.memory import PeakMemory, settle, weight_bytes
from ..models.running import evaluation_mode
from ..models.shapes import ModelShape
from ..models.streaming import check_whole
from ..progress import Progress, silent

SEQ_LEN = 512
"""Tokens at which MACs, latency and memory are taken, or the model's limit where that is less."""


@dataclass(frozen=True)
class Profile:
    """The cost of one forward pass over ``batch_size`` × ``seq_len`` tokens.

    ``macs`` are for one sequence (see `ModelShape.macs`). ``latency`` is the median in seconds,
    ``tokens_per_second`` follows from it; ``peak_memory`` in bytes is that of this model: its
    weights, and what a pass adds to the memory that was in use before, so that other models that
    the process holds do not count. Those three are None where nothing was run.
    """

    parameters: int
    block_parameters: int
    macs: int
    seq_len: int
    batch_size: int = 1
    device: str | None = None
    dtype: str | None = None
    latency: float | None = None
    tokens_per_second: float | None = None
    peak_memory: int | None = None


def profile_shape(shape: ModelShape, *, seq_len: int) -> Profile:
    """What the sizes alone say; nothing is run. Raises InputError for a wrong length."""
    _check_length(shape, seq_len)
    return Profile(
        parameters=shape.parameters,
        block_parameters=shape.block_parameters,
        macs=shape.macs(seq_len),
        seq_len=seq_len,
    )


@torch.no_grad()
def profile_model(
    model: nn.Module,
    *,
    seq_len: int,
    batch_size: int = 1,
    repeats: int = 5,
    warmup: int = 1,
    progress: Progress | None = None,
) -> Profile:
    """Measure ``model``: the median of ``repeats`` forward passes after ``warmup``, synchronised.

    The tokens are random ids from a fixed seed; their values do not change the cost.
    """
    check_whole(model, "Measuring latency and peak memory")
    adapter = Adapter(model)
    counted = profile_shape(adapter.shape, seq_len=seq_len)
    if min(batch_size, repeats) < 1 or warmup < 0:
        raise InputError("Batch size and repeats are at least 1, warm-up at least 0.")
    tokens = random_tokens(model, batch_size, seq_len).to(adapter.input_device)
    report = progress or silent
    with evaluation_mode(model):
        for run in range(warmup):
            report(run / (warmup + repeats), "Measuring the forward pass")
            _seconds(model, tokens)
        settle(model)  # what a first pass sets up once is not the model's
        with PeakMemory(tokens.device) as peak:
            seconds = []
            for run in range(warmup, warmup + repeats):
                report(run / (warmup + repeats), "Measuring the forward pass")
                seconds.append(_seconds(model, tokens))
    latency = statistics.median(seconds)
    weight = next(model.parameters())
    return replace(
        counted,
        batch_size=batch_size,
        device=str(weight.device),
        dtype=str(weight.dtype).removeprefix("torch."),
        latency=latency,
        tokens_per_second=batch_size * seq_len / latency,
        peak_memory=weight_bytes(model) + peak.growth,
    )


def _seconds(model: nn.Module, tokens: Tensor) -> float:
    """How long a forward pass takes."""
    synchronise(tokens.device)
    start = time.perf_counter()
    model(input_ids=tokens, use_cache=False)
    synchronise(tokens.device)
    return time.perf_counter() - start


def random_tokens(model: nn.Module, batch_size: int, seq_len: int) -> Tensor:
    """Token ids (B, T) from a fixed seed, within the model's vocabulary."""
    vocabulary = model.get_input_embeddings().weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (batch_size, seq_len), generator=generator)


def profile_rows(profile: Profile) -> list[tuple[str, str]]:
    """The figures of a profile, worded for people, with their units."""
    rows = [
        ("Parameters", f"{profile.parameters / 1e6:,.2f} M"),
        ("Block parameters", f"{profile.block_parameters / 1e6:,.2f} M"),
        (f"MACs at {profile.seq_len} tokens", f"{profile.macs / 1e9:,.2f} G"),
    ]
    if profile.latency is not None:
        rows += [
            ("Latency", f"{profile.latency * 1e3:,.1f} ms"),
            ("Tokens a second", f"{profile.tokens_per_second:,.0f}"),
            ("Peak memory", f"{profile.peak_memory / 2**20:,.0f} MiB"),
        ]
    return rows


def _check_length(shape: ModelShape, seq_len: int) -> None:
    limit = shape.max_positions
    if seq_len < 1 or (limit and seq_len > limit):
        raise InputError(f"The sequence length is from 1 to {limit}, not {seq_len}.")


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        for index in range(torch.cuda.device_count()):
            torch.cuda.synchronize(index)
    elif device.type == "mps":
        torch.mps.synchronize()


def machine(device: str = "auto") -> dict[str, str | int]:
    """The name of the device that ``device`` means here, and the number of CPU threads."""
    return {"device": device_name(device), "threads": torch.get_num_threads()}


def device_name(device: str = "auto") -> str:
    """The device that ``device`` means here, by the name its maker gave it."""
    kind = resolve_device(device)
    if kind == "spread":
        names = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        return " + ".join(names)
    if kind.startswith("cuda"):
        return torch.cuda.get_device_name(torch.device(kind))
    if kind == "mps":
        return f"Apple GPU ({platform.machine()})"
    return f"{_processor()}, {os.cpu_count()} cores"


def _processor() -> str:
    """The processor's name, as far as the system says it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(named), platform.processor() or platform.machine())


def measure_speed(device: str, dtype: torch.dtype, *, seconds: float = 0.3) -> float:
    """Multiply-accumulates a second of a square matrix product on ``device``: the fastest of those
    done in about so long, which other work on the machine disturbs least."""
    place = torch.device("cuda" if device == "spread" else device)
    size = 1024 if place.type == "cpu" else 4096
    left = torch.ones(size, size, device=place, dtype=dtype)
    _multiply(left)  # the first one is slow
    best, until = math.inf, time.perf_counter() + seconds
    while (start := time.perf_counter()) < until or best == math.inf:
        _multiply(left)
        best = min(best, time.perf_counter() - start)
    return size**3 / best


def _multiply(left: torch.Tensor) -> None:
    (left @ left)[0, 0].item()  # the value waits for the device
