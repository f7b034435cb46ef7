"""Watching a model while it runs. The only place that registers hooks."""

from collections.abc import Callable, Iterator, Mapping
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
