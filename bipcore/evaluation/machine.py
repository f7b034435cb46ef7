"""The machine that something is measured on: its name in words, and how fast it is."""

import math
import os
import platform
import time
from pathlib import Path

import torch

from ..models.loading import resolve_device


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
