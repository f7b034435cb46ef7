"""Watching a model while it runs. The only place that registers hooks."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Within the block ``model`` is in evaluation mode; each module's own mode comes back after."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def capture_inputs(
    modules: Mapping[Any, nn.Module], receive: Callable[[Any, Tensor], None]
) -> Iterator[None]:
    """Within the block, call ``receive(key, x)`` with the first input x of each module.

    x is the live tensor: ``receive`` must not change it, and should not keep it. The hooks are
    removed when the block is left, by an exception too.
    """
    handles = []
    try:
        for key, module in modules.items():
            hook = _input_hook(key, receive)
            handles.append(module.register_forward_pre_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _input_hook(key: Any, receive: Callable[[Any, Tensor], None]):
    def hook(module: nn.Module, args: tuple) -> None:
        receive(key, args[0])

    return hook


@contextmanager
def replaced_forwards(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Within the block each of these modules does what it is mapped to, not its own work.

    What the modules do comes back when the block is left, by an exception too.
    """
    own = {module: module.__dict__.get("forward") for module in forwards}
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, forward in own.items():
            if forward is None:
                module.__dict__.pop("forward", None)
            else:
                module.forward = forward


@contextmanager
def record_calls(modules: Sequence[nn.Module]) -> Iterator[list[tuple[Tensor, dict[str, Any]]]]:
    """Within the block ``modules`` do nothing but hand on their first argument.

    Yields a list that is filled, call by call, with that argument and the named ones. What the
    modules do comes back when the block is left, by an exception too.
    """
    calls: list[tuple[Tensor, dict[str, Any]]] = []

    def recorder(first: Tensor, **named: Any) -> Tensor:
        calls.append((first, named))
        return first

    with replaced_forwards(dict.fromkeys(modules, recorder)):
        yield calls
