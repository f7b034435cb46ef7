"""Several processes that share the work of one command, started by ``torchrun`` or ``accelerate``.

The *main* process does what one process alone would: it decides, writes the run store, and says
what there is to say. The others wait until it calls for them, either for work that all do in step,
each on its part (`together`, with `split` and `Part.summed` in it), or for pieces that each makes
by itself (`dealt`). An error of any of them becomes one of the main process; where a process is
gone, the others raise `Lost` instead of waiting for it.

Nothing here costs anything in a process that was started by itself.
"""

import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from typing import Any, TypeVar

from torch import Tensor

from ..errors import InputError, explain

Result = TypeVar("Result")

LONGEST_WAIT = timedelta(days=1)
"""How long a process waits for one that lives; that one has died is seen at once."""

_NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
_AT_ONCE = 2**22  # numbers that are added up at once
_TOGETHER, _DEALT, _END = "together", "dealt", "end"


@dataclass(frozen=True)
class Place:
    """Which of ``count`` processes this is, from 0, and on this machine ``local``; ``main_pid`` is
    the process id of the main one."""

    rank: int = 0
    count: int = 1
    local: int = 0
    main_pid: int = 0

    @property
    def is_main(self) -> bool:
        return self.rank == 0


class Lost(InputError):
    """Another process has ended before its time; its cause is the error of the connection."""


class _Elsewhere(Exception):
    """Another process failed: ``error`` is what that is here."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


@dataclass
class _State:
    """``sharing``: what is being done is done by all in step. ``called``: the others are busy with
    what this process, the main one, called for."""

    place: Place = field(default_factory=Place)
    sharing: bool = False
    called: bool = False


_state = _State()


def launched() -> bool:
    """Whether this process was started as one of several, and has not joined the others yet."""
    there = all(name in os.environ for name in _NAMES)
    return there and os.environ["WORLD_SIZE"].isdecimal() and int(os.environ["WORLD_SIZE"]) > 1


def place() -> Place:
    """That of this process: the first of one, unless it has joined others."""
    return _state.place


def join() -> Place:
    """Meet the other processes; raises Lost where one is missing.

    The variables of the launcher are taken out of the environment, so that no library shares work,
    or trains, in its own way among processes that do different things.
    """
    import torch.distributed

    rank, count, local = (int(os.environ[name]) for name in _NAMES[:3])
    _state.place = Place(rank, count, local)
    with _connected():
        torch.distributed.init_process_group("gloo", timeout=LONGEST_WAIT)
    for name in (*_NAMES[:3], "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    _state.place = Place(rank, count, local, main_pid=_gathered(os.getpid())[0])
    return _state.place


@dataclass(frozen=True)
class Part:
    """The items from ``start`` to before ``stop``, of ``total``, that are this process's own."""

    start: int
    stop: int
    total: int

    @property
    def own(self) -> slice:
        """What to take of a sequence of all items."""
        return slice(self.start, self.stop)

    @property
    def is_all(self) -> bool:
        """Whether there is nothing for others to do."""
        return self.stop - self.start == self.total

    def summed(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The sums over all processes of each of ``tensors``, which have the same shapes in all;
        added up in float64, in the type and on the device of the tensor."""
        if self.is_all:
            return list(tensors)
        sums = [tensor.detach().to("cpu", copy=True).contiguous() for tensor in tensors]
        _agree()
        for summed in sums:
            _add_up(summed)
        return [new.to(old.device) for new, old in zip(sums, tensors, strict=True)]


EVERYTHING = Part(0, 1, 1)
"""All there is: what is not shared."""


def split(total: int, *batches: int) -> Part:
    """This process's part of ``total`` items, one after the other: about as many for each.

    All of them where nothing is shared, and where there are fewer items than processes. Batches of
    so many items stay whole, of the first of ``batches`` of which there are enough for all: then
    each gives what it gives in one process, and only their sums are added up in another order.
    """
    here = _state.place
    if not _state.sharing or total < here.count:
        return Part(0, total, total)
    enough = (batch for batch in batches if 0 < batch * (here.count - 1) < total)
    batch = next(enough, 1)
    count = -(-total // batch)
    start, stop = (count * rank // here.count * batch for rank in (here.rank, here.rank + 1))
    return Part(start, min(stop, total), total)


def _add_up(tensor: Tensor) -> None:
    """Make ``tensor``, contiguous and on the CPU, the sum of those of all processes."""
    import torch.distributed

    for part in tensor.view(-1).split(_AT_ONCE):
        wide = part.double()
        with _connected():
            torch.distributed.all_reduce(wide)
        part.copy_(wide)


def least(number: int) -> int:
    """The smallest of what the processes in step call this with; alone, ``number`` itself."""
    if not _state.sharing:
        return number
    found = _gathered(number)
    for one in found:
        if not isinstance(one, int):  # what another says of its error
            raise _Elsewhere(_error(one))
    return min(found)


def together(owner: Any, function: Callable[..., Result], *arguments: Any) -> Result:
    """What ``function(owner, *arguments)`` gives, every process doing its part of it.

    Called by the main process; the others call the same function on what they have of the
    ``owner``'s class (see `follow`). ``function`` is one of a module or a class, and what it shares
    it does by `split`. Within a call, in the others, or without any it is simply called.
    """
    here = _state.place
    if here.count == 1 or not here.is_main or _state.called or _state.sharing:
        with _sharing(False):
            return function(owner, *arguments)
    with _calling((_TOGETHER, type(owner), function, arguments)):
        return in_step(partial(function, owner, *arguments))


def in_step(work: Callable[[], Result]) -> Result:
    """``work()``, which every process calls at the same time and `split` shares; what one raises
    all raise."""
    if _state.place.count == 1:
        return work()
    try:
        with _sharing(True):
            result = work()
            _agree()
    except _Elsewhere as failed:
        raise failed.error from None
    except Lost:
        raise
    except Exception as error:
        _gathered(_said(error))  # the others learn of it where they next add up, or at their end
        raise
    return result


@dataclass(frozen=True)
class Outcome:
    """What came of the pieces of one process: the errors of those that ``failed``, by their place
    in its queue, what it ``warned`` of, which was not shown, and what it has ``made`` that is not
    stored."""

    failed: Mapping[int, Exception]
    warned: Sequence[str]
    made: Sequence[Any] = ()


def dealt(owner: Any, function: Callable[..., Any], queues: Sequence[Sequence]) -> list[Outcome]:
    """Let every process make the pieces of its own of ``queues``, one for each, by
    ``function(owner, piece)``; what came of them. See `together`."""
    with _calling((_DEALT, type(owner), function, queues)):
        mine = _made(owner, function, queues[0])
        others = _gathered(None)[1:]
    found = [({i: _error(said) for i, said in failed.items()}, *more) for failed, *more in others]
    return [Outcome(*one) for one in (mine, *found)]


def follow(owners: Mapping[type, Any], hand_over: Callable[[], Sequence[Any]]) -> None:
    """Do what the main process calls for, until it ends.

    ``owners``: what functions are called on, by class. ``hand_over()`` gives what was made since
    it was last called. Raises Lost where a process is gone.
    """
    while True:
        what, *call = _heard()
        if what == _END:
            return
        kind, function, arguments = call
        owner = owners[kind]
        if what == _TOGETHER:
            try:
                in_step(partial(function, owner, *arguments))
            except Lost:
                raise
            except Exception:  # the main process has it, and says it
                continue
        else:
            failed, warned = _made(owner, function, arguments[_state.place.rank])
            _gathered(({i: _said(e) for i, e in failed.items()}, warned, hand_over()))


def end() -> None:
    """Let the other processes end, if they wait to be called; else they see for themselves that
    this one is gone."""
    if _state.place.count > 1 and not _state.called:
        with suppress(Lost):
            _tell((_END,))


def _made(
    owner: Any, function: Callable[..., Any], pieces: Sequence
) -> tuple[dict[int, Exception], list[str]]:
    """Make pieces, one after the other; the errors of those that failed, and the warnings."""
    failed: dict[int, Exception] = {}
    with _sharing(False), warnings.catch_warnings(record=True) as caught:
        for index, piece in enumerate(pieces):
            try:
                function(owner, piece)
            except Exception as error:
                failed[index] = error
    return failed, [str(one.message) for one in caught if one.category is UserWarning]


@contextmanager
def _sharing(sharing: bool) -> Iterator[None]:
    before, _state.sharing = _state.sharing, sharing
    try:
        yield
    finally:
        _state.sharing = before


@contextmanager
def _calling(message: tuple) -> Iterator[None]:
    """Within it the others do what ``message`` says. Left by an interruption, or for want of one
    of them, they stay called: they cannot be told anything."""
    _state.called = True
    _tell(message)
    try:
        yield
    except Lost:
        raise
    except Exception:
        _state.called = False
        raise
    _state.called = False


Said = tuple[str | None, str]
"""An error in words that another process can make one of: the sentence for users, if there is one,
and all of it."""


def _said(error: Exception) -> Said:
    whole = "".join(traceback.format_exception(error))
    return explain(error), f"In process {_state.place.rank}:\n{whole}"


def _error(said: Said) -> Exception:
    sentence, whole = said
    return RuntimeError(whole) if sentence is None else InputError(sentence)


def _agree() -> None:
    """Go on if all do; raises _Elsewhere where another process says that it failed."""
    for said in _gathered(None):
        if said is not None:
            raise _Elsewhere(_error(said))


def _gathered(thing: Any) -> list[Any]:
    """What each process calls this with, in their order."""
    import torch.distributed

    found = [None] * _state.place.count
    with _connected():
        torch.distributed.all_gather_object(found, thing)
    return found


def _tell(message: tuple) -> None:
    import torch.distributed

    with _connected():
        torch.distributed.broadcast_object_list([message], src=0)


def _heard() -> tuple:
    import torch.distributed

    message: list[Any] = [None]
    with _connected():
        torch.distributed.broadcast_object_list(message, src=0)
    return message[0]


@contextmanager
def _connected() -> Iterator[None]:
    """Within it an error of the connection is raised as Lost."""
    try:
        yield
    except RuntimeError as error:
        raise Lost(
            f"Another of the {_state.place.count} processes has ended, so this command ends, too; "
            "what was finished before is stored, and the same command goes on from there."
        ) from error
