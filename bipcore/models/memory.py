"""Memory: what a computation takes, the peak while it runs, and what is free for more."""

import gc
import re
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import torch
from torch import nn

from ..errors import InputError, short
from .processes import place
from .streaming import give_back, stream_of

AUTO = "auto"
_UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_PAGE = 4096


def weight_bytes(model: nn.Module) -> int:
    """The bytes of a model's weights, each counted once."""
    return sum(weight.numel() * weight.element_size() for weight in model.parameters())


def read_size(said: str) -> int | None:
    """The bytes that ``said`` stands for ("700MiB", "24GB", "1.5G"), None for "auto".

    Raises InputError for anything else.
    """
    if said == AUTO:
        return None
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?)\s*([kmgt]?)(i?)b?", said.strip().lower())
    if found is None or not float(found[1]) or (found[3] and not found[2]):
        raise InputError(f"The memory is auto or a size such as 700MiB or 24GB, not {short(said)}.")
    of_two = found[3] or not said.strip().lower().endswith("b")
    return int(float(found[1]) * (1024 if of_two else 1000) ** _UNITS[found[2]])


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
    give_back()
    for weight in model.parameters():
        if weight.device.type == "cpu":
            flat = weight.detach().reshape(-1)
            flat[:: max(1, _PAGE // weight.element_size())].sum()


def check_free(
    model: nn.Module, need: int, instead: str = "use a smaller model or another setting"
) -> None:
    """Raise InputError where ``need`` bytes more are not free on the devices of ``model``, with
    what would do ``instead``.

    Over several GPUs what is needed lies like the weights: each has to have its share free.
    """
    sizes: Counter[torch.device] = Counter()
    stream = stream_of(model)
    for weight in model.parameters():
        device = stream.device if stream else weight.device
        sizes[device] += weight.numel() * weight.element_size()
    for device, size in sizes.items():
        share, free = need * size / max(sizes.total(), 1), free_memory(device)
        free = min(free, stream.budget) if stream else free
        if share > free:
            place = f" on {device}" if len(sizes) > 1 else ""
            raise InputError(
                f"This takes {share / 2**30:,.1f} GiB of memory beside the model{place}, and "
                f"{free / 2**30:,.1f} GiB are free; {instead}."
            )


def free_memory(device: torch.device) -> int:
    """The bytes that can still be had on ``device``. On a GPU what PyTorch holds and does not use
    is free, too; on the CPU what the container or control group of this process allows counts, and
    of several processes that share work each has an equal part."""
    if device.type == "cuda":
        held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + held
    return min([psutil.virtual_memory().available, *_left_in_groups()]) // place().count


def free_on(device: str) -> int:
    """`free_memory` of a device as `resolve_device` names it; of all GPUs where it is "spread"."""
    if device == "spread":
        return sum(free_memory(torch.device("cuda", i)) for i in range(torch.cuda.device_count()))
    return free_memory(torch.device(device))


def _left_in_groups(
    membership: Path = Path("/proc/self/cgroup"), root: Path = Path("/sys/fs/cgroup")
) -> Iterator[int]:
    """What each control group that this process is in leaves of its limit, in bytes.

    Both versions: one tree (``0::/path``), or one of its own for memory (``5:memory:/path``). In a
    container the group's own files lie at the root, whatever path is said.
    """
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return
    for _, controllers, said in (line.split(":", 2) for line in lines if line.count(":") >= 2):
        if controllers and "memory" not in controllers.split(","):
            continue
        tree = root / "memory" if controllers else root
        folder = tree / said.lstrip("/")
        while folder.is_relative_to(tree):
            if (left := _left_in_group(folder)) is not None:
                yield left
            folder = folder.parent


def _left_in_group(folder: Path) -> int | None:
    """What one control group leaves of its limit; None where it has none. Pages of files that were
    read long ago count as used there, but are given up when memory is short."""
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, now = int((folder / limit).read_text()), int((folder / used).read_text())
            said = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        except (OSError, ValueError):  # not there, or "max"
            continue
        return max(most - now + int(said.get(cached, 0)), 0)
    return None
