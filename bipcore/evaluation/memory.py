"""How much memory a computation takes: the peak while it runs, and what it adds to what is held."""

import contextlib
import ctypes
import gc
import threading

import psutil
import torch
from torch import nn

_PAGE = 4096


def weight_bytes(model: nn.Module) -> int:
    """The bytes of a model's weights, each counted once."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


class PeakMemory:
    """Peak memory in bytes while the context is open: all GPUs' allocations, or this process's
    resident size, sampled every 5 ms. ``before`` is what was in use when it was opened."""

    def __init__(self, device: torch.device):
        self.on_gpu = device.type == "cuda"
        self.bytes = self.before = 0
        self._done = threading.Event()

    @property
    def growth(self) -> int:
        """What was added at most to what was in use before."""
        return max(self.bytes - self.before, 0)

    def __enter__(self) -> "PeakMemory":
        if self.on_gpu:
            for index in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(index)
            self.before = sum(map(torch.cuda.memory_allocated, range(torch.cuda.device_count())))
        else:
            self.before = psutil.Process().memory_info().rss
            self._thread = threading.Thread(target=self._sample, daemon=True)
            self._thread.start()
        return self

    def _sample(self) -> None:
        process = psutil.Process()
        while True:
            self.bytes = max(self.bytes, process.memory_info().rss)
            if self._done.wait(0.005):
                return

    def __exit__(self, *exception) -> None:
        if self.on_gpu:
            devices = range(torch.cuda.device_count())
            self.bytes = sum(torch.cuda.max_memory_allocated(index) for index in devices)
        else:
            self._done.set()
            self._thread.join()


def settle(model: nn.Module) -> None:
    """Make what is in use what is held: give freed memory back to the system, and bring those of
    the model's weights in that are mapped from a file and were not read yet."""
    gc.collect()
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
    for weight in model.parameters():
        if weight.device.type == "cpu":
            flat = weight.detach().reshape(-1)
            flat[:: max(1, _PAGE // weight.element_size())].sum()
