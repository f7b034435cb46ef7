"""Models larger than the memory: parts that rest on the disk, and are brought in while they run.

A model is cut into *parts*: its embedding, its decoder blocks, its head. The parameters of a part
that rests are on the meta device, with their sizes and types. They are read when the part is run,
or while `present` holds it, and dropped afterwards; whoever runs a part on many batches holds it
meanwhile, so that it is read once. Copies of a model rest in the same files, each with what was cut
from it (`cut`) or put in its place (`put`).
"""

import ctypes
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor, nn

from ..errors import InputError, reason_of, short
from .extremes import is_finite

_PART = "_part"


@dataclass(frozen=True, eq=False)
class Place:
    """Where a parameter rests: a ``file``, its ``key`` there, and which of its rows and columns
    are left; None: all. ``owner`` is who removes the file when nobody holds it any more."""

    file: Path
    key: str
    rows: Tensor | None = None
    columns: Tensor | None = None
    owner: object = None

    def without(self, rows: Tensor | None, columns: Tensor | None) -> "Place":
        """With these of the rows and columns that are left."""
        return replace(self, rows=_chosen(self.rows, rows), columns=_chosen(self.columns, columns))

    def of(self, stored: Tensor) -> Tensor:
        """What is left of the tensor in the file; never a view of it."""
        left = stored if self.rows is None else stored[self.rows]
        left = left if self.columns is None else left[:, self.columns]
        return left.clone() if left is stored else left.contiguous()


def _chosen(before: Tensor | None, now: Tensor | None) -> Tensor | None:
    now = None if now is None else now.cpu()
    return before if now is None else now if before is None else before[now]


@dataclass(eq=False)
class Stream:
    """What the parts of a model and of its copies share: the ``device`` they run on, the number
    type, the ``budget`` in bytes for weights and activations, whether two parts fit into it, so
    that the next may be read while one runs (``ahead``), and the folder with ``room`` for what does
    not fit."""

    device: torch.device
    dtype: torch.dtype
    budget: int
    ahead: bool
    room: Path

    def read(self, places: Mapping[str, Place]) -> dict[str, Tensor]:
        """The parameters that rest in ``places``, in the type and on the device where they run.

        Raises InputError where a file is gone, damaged, or holds what is not a finite number.
        """
        found = {}
        for file in dict.fromkeys(place.file for place in places.values()):
            try:
                with safetensors.safe_open(file, framework="pt") as opened:
                    for name, place in places.items():
                        if place.file == file:
                            found[name] = place.of(opened.get_tensor(place.key)).to(self.dtype)
            except (OSError, safetensors.SafetensorError) as error:
                raise InputError(
                    f"The weights in {short(file)} cannot be read any more: {reason_of(error)}."
                ) from None
        for name, tensor in found.items():
            if not is_finite(tensor):
                raise InputError(
                    f"The weights {name} in {short(places[name].file)} hold values that are not "
                    f"finite numbers in {str(self.dtype).removeprefix('torch.')}; get them again, "
                    "or use another --dtype."
                )
        return found


class Part:
    """A module that rests on the disk: where each of its parameters, by name, is."""

    def __init__(self, stream: Stream, places: Mapping[str, Place]) -> None:
        self.stream, self.places = stream, dict(places)
        self._resting: dict[str, nn.Parameter] = {}
        self._held = 0
        self._next: Future | None = None

    def __deepcopy__(self, memo: dict) -> "Part":
        return Part(self.stream, self.places)

    def move(self, places: Mapping[str, Place]) -> None:
        """Let parameters, by name, rest in other ``places``."""
        self.places |= places
        self._next = None  # what was read ahead is not what rests any more

    def fetch(self) -> None:
        """Begin to read in the background what `enter` will want."""
        if self._next is None and not self._held:
            self._next = _reader().submit(_fetched, self.stream, dict(self.places))

    def enter(self, module: nn.Module) -> None:
        """Bring the parameters of ``module`` in, unless they are there."""
        if not self._held:
            ahead, self._next = self._next, None
            tensors = _arrived(ahead.result() if ahead else _fetched(self.stream, self.places))
            self._resting = {name: module.get_parameter(name) for name in tensors}
            for name, tensor in tensors.items():
                _set(module, name, nn.Parameter(tensor, requires_grad=False))
        self._held += 1

    def leave(self, module: nn.Module) -> None:
        """Drop the parameters of ``module`` once everybody who brought them in has left."""
        self._held -= 1
        if not self._held:
            for name, parameter in self._resting.items():
                _set(module, name, parameter)
            self._resting = {}
            if self.stream.device.type == "cpu":
                give_back()


def give_back() -> None:
    """Give memory that was freed in small pieces back to the system, where glibc is: it would keep
    more than a small model's budget. Takes milliseconds."""
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _set(module: nn.Module, name: str, parameter: nn.Parameter) -> None:
    owner, _, last = name.rpartition(".")
    setattr(module.get_submodule(owner), last, parameter)


_readers: list[ThreadPoolExecutor] = []


def _reader() -> ThreadPoolExecutor:
    """The thread that reads ahead, one for the process."""
    if not _readers:
        _readers.append(ThreadPoolExecutor(1, "bipcore-reader"))
    return _readers[0]


def _fetched(stream: Stream, places: Mapping[str, Place]) -> tuple[dict[str, Tensor], Any]:
    """What rests in ``places``, on its way to the device, and the event that says it has arrived:
    on a GPU it is copied from pinned memory beside what is computed."""
    tensors = stream.read(places)
    if stream.device.type != "cuda":
        return {name: tensor.to(stream.device) for name, tensor in tensors.items()}, None
    beside = torch.cuda.Stream(stream.device)
    with torch.cuda.stream(beside):
        moved = {
            name: tensor.pin_memory().to(stream.device, non_blocking=True)
            for name, tensor in tensors.items()
        }
        arrived = torch.cuda.Event()
        arrived.record(beside)
    return moved, arrived


def _arrived(fetched: tuple[dict[str, Tensor], Any]) -> dict[str, Tensor]:
    tensors, arrived = fetched
    if arrived is not None:
        current = torch.cuda.current_stream(next(iter(tensors.values())).device)
        current.wait_event(arrived)
        for tensor in tensors.values():
            tensor.record_stream(current)
    return tensors


def part_of(module: nn.Module) -> Part | None:
    """The part that ``module`` is, None where its parameters are always there."""
    return module.__dict__.get(_PART)


def is_streamed(model: nn.Module) -> bool:
    """Whether parts of ``model`` rest on the disk."""
    return stream_of(model) is not None


def stream_of(model: nn.Module) -> Stream | None:
    """What the parts of ``model`` share, None where it is all in memory."""
    return next((part.stream for part in map(part_of, model.modules()) if part), None)


def check_whole(model: nn.Module, what: str) -> None:
    """Raise InputError where parts of ``model`` rest: ``what`` needs it in memory as a whole."""
    weights = list(model.parameters())
    if is_streamed(model) or any(weight.is_meta for weight in weights):
        size = sum(weight.numel() * weight.element_size() for weight in weights)
        raise InputError(
            f"{what} needs the whole model in memory, whose weights take {size / 2**30:,.1f} GiB; "
            "allow more (--memory), or use a narrower --dtype or a smaller model."
        )


def device_of(module: nn.Module) -> torch.device:
    """Where ``module`` runs, also while it rests."""
    part = part_of(module)
    return part.stream.device if part else next(module.parameters()).device


@contextmanager
def present(*modules: nn.Module) -> Iterator[None]:
    """Within it the parameters of ``modules`` are there; of those that always are nothing is
    done."""
    entered = []
    try:
        for module in modules:
            if (part := part_of(module)) is not None:
                part.enter(module)
                entered.append((part, module))
        yield
    finally:
        for part, module in entered:
            part.leave(module)


def fetch(module: nn.Module) -> None:
    """Begin to read ``module``, which is to be run next, where there is room for two parts."""
    part = part_of(module)
    if part is not None and part.stream.ahead:
        part.fetch()


def _run(module: nn.Module, *args: Any, **named: Any) -> Any:
    """What ``module`` does, its parameters being brought in for it."""
    with present(module):
        return type(module).forward(module, *args, **named)


def rest(module: nn.Module, stream: Stream, places: Mapping[str, Place]) -> None:
    """Make ``module``, whose parameters are on the meta device, a part that rests in ``places``."""
    vars(module)[_PART] = Part(stream, places)
    module.forward = partial(_run, module)


def name_in(module: nn.Module, linear: nn.Module) -> str:
    """The name of ``linear`` as a module of ``module``."""
    return next(name for name, one in module.named_modules() if one is linear)


def cut(module: nn.Module, linear: nn.Linear, rows: Tensor | None, columns: Tensor | None) -> None:
    """Note that only these ``rows`` and ``columns`` are left of ``linear``, a layer of the resting
    part ``module``; None: all. Nothing is done where it is none."""
    if (part := part_of(module)) is None:
        return
    name = name_in(module, linear)
    left = {f"{name}.weight": (rows, columns), f"{name}.bias": (rows, None)}
    found = {key: which for key, which in left.items() if key in part.places}
    part.move({key: part.places[key].without(*which) for key, which in found.items()})


def put(module: nn.Module, parameters: Mapping[str, Tensor], *, file: Path, owner: object) -> None:
    """Let ``parameters``, by their names, rest in the place of those of the part ``module``.

    They are in ``file`` under the same names; ``owner`` is who removes it.
    """
    part = part_of(module)
    part.move({name: Place(file, name, owner=owner) for name in parameters})
    for name, tensor in parameters.items():
        meta = torch.empty_like(tensor, dtype=part.stream.dtype, device="meta")
        _set(module, name, nn.Parameter(meta, requires_grad=False))


def named_parts(model: nn.Module) -> Iterator[tuple[str, Part]]:
    """The parts of ``model`` and their paths."""
    for path, module in model.named_modules():
        if (part := part_of(module)) is not None:
            yield path, part


def rest_as(model: nn.Module, other: nn.Module) -> None:
    """Make the modules of ``model``, on the meta device, parts that rest as those of ``other``
    under the same names."""
    for path, part in named_parts(other):
        rest(model.get_submodule(path), part.stream, part.places)


def recast(model: nn.Module, dtype: torch.dtype) -> None:
    """Let the parts of ``model`` be read in another number type. Tied weights stay tied."""
    stream = replace(stream_of(model), dtype=dtype)
    made: dict[int, nn.Parameter] = {}
    for path, part in list(named_parts(model)):
        module = model.get_submodule(path)
        part.stream = stream
        for name in part.places:
            old = module.get_parameter(name)
            if id(old) not in made:
                made[id(old)] = nn.Parameter(old.to(dtype), requires_grad=False)
            _set(module, name, made[id(old)])


def tensors_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Every tensor of the state dict of ``model`` and its name, one part being there at a time.

    Who does not go to its end closes it, or the part stays.
    """
    resting = {}
    for path, module in model.named_modules():
        if (part := part_of(module)) is not None:
            resting |= {f"{path}.{name}": (module, name) for name in part.places}
    with ExitStack() as held:
        holding = None
        for name, tensor in model.state_dict().items():
            module, own = resting.get(name, (None, name))
            if module is not holding:
                held.close()
                held.enter_context(present(*filter(None, [module])))
                holding = module
            yield name, tensor if module is None else module.get_parameter(own).detach()
