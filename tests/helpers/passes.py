"""Counting forward passes, whichever model they are of."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch.nn.modules.module import register_module_forward_pre_hook
from transformers import PreTrainedModel


@contextmanager
def counted_passes() -> Iterator[list]:
    """A list that gets one element for every forward pass through a model's blocks."""
    passes: list[str] = []

    def count(module, inputs) -> None:
        if isinstance(module, PreTrainedModel) and module.base_model is module:
            passes.append(type(module).__name__)

    handle = register_module_forward_pre_hook(count)
    try:
        yield passes
    finally:
        handle.remove()
