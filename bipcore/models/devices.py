"""The device that a model runs on."""

import torch

from ..errors import InputError
from .processes import place


def resolve_device(device: str) -> str:
    """``device`` with "auto" resolved: "spread" over several GPUs, "cuda", "mps" or "cpu".

    Of several processes each has a GPU of its own, "cuda:1"; raises InputError where there are not
    as many.
    """
    if place().count > 1 and device in ("auto", "cuda") and torch.cuda.is_available():
        return _own_gpu()
    if device != "auto":
        try:
            kind = torch.device(device).type
        except RuntimeError:
            raise InputError(f"There is no device {device!r}; try auto, cpu or cuda.") from None
        usable = {"cpu": True, "cuda": torch.cuda.is_available()}
        usable["mps"] = torch.backends.mps.is_available()
        if not usable.get(kind, False):
            raise InputError(f"The device {device!r} is not usable here; try auto or cpu.")
        return device
    if torch.cuda.is_available():
        return "spread" if torch.cuda.device_count() > 1 else "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def widest(device: torch.device) -> torch.dtype:
    """The type to sum up in on ``device``: float64, or float32 on mps, which has no other."""
    return torch.float32 if device.type == "mps" else torch.float64


def _own_gpu() -> str:
    """That of this process, of as many on this machine as there are processes on it."""
    there = torch.cuda.device_count()
    if place().local >= there:
        raise InputError(
            f"Each process takes a GPU of its own, and there are only {there}; start no more "
            "processes than that on a machine, or give --device cpu."
        )
    return f"cuda:{place().local}"
