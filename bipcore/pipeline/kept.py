"""What is kept in memory from one piece of work to the next, and when it goes: one rule.

What is kept and what comes next may take half of the memory: that which is free or would be, were
nothing kept, or what ``--memory`` says; the other half is for what is computed. Where the next
would not fit, what was used longest ago goes first. What somebody uses at that time stays.
"""

import gc
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from ..models.memory import AUTO, free_on, read_size
from ..models.streaming import give_back
from ..specs import ModelSpec
from ..store.kinds import digest

DENSE, PRUNED, RECOVERED, TOKENS = "dense", "pruned", "recovered", "tokens"

_SHARE = 0.5


@dataclass(eq=False)
class Entry:
    """One thing that is kept: its ``kind``, what identifies what it was made from (``key``), the
    ``model`` that it is, or is of, the module or tensor itself, what goes with it, and the bytes of
    its storages by where they lie: (device type, address)."""

    kind: str
    key: str
    model: ModelSpec
    value: nn.Module | Tensor | None
    beside: Any
    storages: dict[tuple[str, int], int]

    def __str__(self) -> str:
        return self.model.name if self.kind == DENSE else f"{self.model.name} ({self.kind})"

    def let_go(self) -> bool:
        """Hold ``value`` no longer, unless somebody else does; whether it is gone."""
        seen, self.value = weakref.ref(self.value), None
        if seen() is not None:
            gc.collect()  # of a model that refers to itself
        self.value = seen()
        return self.value is None


@dataclass(frozen=True)
class Held:
    """What is kept, in words and numbers: the ``names`` of the models, and by the type of a device
    the bytes there, what several share counted once."""

    names: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)

    def bytes(self, device: str) -> int:
        """What is kept on ``device``."""
        return self.sizes.get(_type(device), 0)

    def budget(self, device: str, memory: str = AUTO) -> int:
        """The bytes that may be kept on ``device``."""
        said = read_size(memory)
        whole = free_on(device) + self.bytes(device) if said is None else said
        return int(_SHARE * whole)


class Kept:
    """What is kept, what was used last at the end: any number of dense models, and of each other
    kind the last that was made. One thread adds to it and lets go; others may look."""

    def __init__(self) -> None:
        self._entries: tuple[Entry, ...] = ()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def find(self, kind: str, made_from: Any) -> Entry | None:
        """What was made from this, if it is kept. It counts as used."""
        key = digest(made_from)
        for entry in self._entries:
            if (entry.kind, entry.key) == (kind, key):
                self._entries = (*(one for one in self._entries if one is not entry), entry)
                return entry
        return None

    def put(
        self,
        kind: str,
        made_from: Any,
        model: ModelSpec,
        value: nn.Module | Tensor,
        beside: Any = None,
    ) -> Entry:
        """Keep ``value``, which was made from this, and what goes with it."""
        key, storages = digest(made_from), dict(_storages(value))
        entry = Entry(kind, key, model, value, beside, storages)
        self._entries = (*self._entries, entry)
        return entry

    @property
    def held(self) -> Held:
        """What is kept now, in words and numbers."""
        found = {at: size for one in self for at, size in one.storages.items()}
        sizes: Counter[str] = Counter()
        for (where, _), size in found.items():
            sizes[where] += size
        return Held(tuple(str(one) for one in self if one.kind != TOKENS), dict(sizes))

    def bytes(self, device: str) -> int:
        """What is kept on ``device``."""
        return self.held.bytes(device)

    def budget(self, device: str, memory: str = AUTO) -> int:
        """The bytes that may be kept on ``device``."""
        return self.held.budget(device, memory)

    def has_room(self, need: int, *, device: str, memory: str = AUTO) -> bool:
        """Whether ``need`` bytes fit beside what is kept on ``device``."""
        return self.bytes(device) + need <= self.budget(device, memory)

    def make_room(self, need: int, *, device: str, memory: str = AUTO) -> None:
        """Let go, of what was used longest ago first, until ``need`` bytes fit beside the rest on
        ``device``, or all that is left there is in use."""
        for entry in self._entries:
            if self.has_room(need, device=device, memory=memory):
                return
            here = any(where == _type(device) for where, _ in entry.storages)
            if here and entry.let_go():
                self._keep(lambda one, gone=entry: one is not gone)
                _give_back()

    def replace(self, kind: str) -> None:
        """Let go of what is kept of this kind: another is about to be made."""
        self._keep(lambda one: one.kind != kind)

    def forget(self, model: ModelSpec) -> None:
        """Let go of a model whose files have changed, and of what was made from it."""
        self._keep(lambda one: one.model != model)

    def clear(self) -> None:
        """Let go of everything."""
        self._entries = ()
        gc.collect()
        _give_back()

    def _keep(self, which: Callable[[Entry], bool]) -> None:
        self._entries = tuple(filter(which, self._entries))


def _type(device: str) -> str:
    """Of a device as `resolve_device` names it the type; all GPUs are one."""
    return "cuda" if device == "spread" else torch.device(device).type


def _storages(value: nn.Module | Tensor) -> Iterator[tuple[tuple[str, int], int]]:
    """The storages of all tensors of ``value`` that are in memory, and their bytes."""
    module = isinstance(value, nn.Module)
    for tensor in chain(value.parameters(), value.buffers()) if module else [value]:
        if not tensor.is_meta:
            storage = tensor.untyped_storage()
            yield (tensor.device.type, storage.data_ptr()), storage.nbytes()


def resident_bytes(value: nn.Module | Tensor) -> int:
    """The bytes of ``value`` that are in memory."""
    return sum(dict(_storages(value)).values())


def _give_back() -> None:
    give_back()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
