"""Comparing what was read back from an export with what was written."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..evaluation.profiling import random_tokens
from ..models.adapters import Adapter
from ..models.families import family_of
from ..models.running import evaluation_mode
from ..models.streaming import is_streamed
from ..pruning.slicing import shallow_clone
from .number_types import in_type
from .streamed import move_places, same_tensors

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


@torch.no_grad()
def compare(
    model: nn.Module,
    form: nn.Module,
    again: nn.Module,
    *,
    tolerance: float | None = None,
    rounded: bool | None = None,
) -> float:
    """The largest difference between the logits of ``model`` and of ``again``.

    ``form``, which may not run, is ``model`` as it was written, and ``again`` what was read back.
    Raises InputError where a weight of those two differs in a bit, or the logits by more than
    ``tolerance`` times the largest; by default what the order of sums does. Where another type was
    written than ``model`` has, ``again`` is run in that of ``model``; where weights were
    ``rounded`` (by default: where the types differ), ``tolerance`` holds between it and ``model``
    with its weights so rounded: what rounding does is in the figure alone.
    """
    if not same_tensors(form, again):
        raise InputError("The export was not kept: its weights, read back, are not those written.")
    dtype = next(model.parameters()).dtype
    again = again if is_streamed(again) else again.to(Adapter(model).input_device)
    again = in_type(again.eval(), dtype)
    tokens = _tokens(model)
    found, shown = _logits(again, tokens), _logits(model, tokens)
    if rounded is None:
        rounded = form.dtype != dtype
    expected = shown if not rounded else _logits(_with_weights(model, again), tokens)
    scale = max(1.0, float(expected.abs().max()))
    difference = float((found - expected).abs().max())
    if tolerance is None:
        tolerance = _TOLERANCE.get(dtype, 2e-2)
    if not difference <= tolerance * scale:
        raise InputError(
            f"The export was not kept: its logits, read back, differ by {difference:.2g}."
        )
    return float((found - shown).abs().max())


def _tokens(model: nn.Module) -> Tensor:
    length = min(32, getattr(model.config, "max_position_embeddings", None) or 32)
    return random_tokens(model, 2, length).to(Adapter(model).input_device)


def _logits(model: nn.Module, tokens: Tensor) -> Tensor:
    with evaluation_mode(model):
        return model(input_ids=tokens, use_cache=False).logits.float().cpu()


def _with_weights(model: nn.Module, other: nn.Module) -> nn.Module:
    """``model`` with the weights of ``other``, which may have fewer blocks: of those that nothing
    is left of there is nothing to take."""
    twin, weights = shallow_clone(model), dict(other.named_parameters())
    named = _names(model, other)
    if is_streamed(twin):
        move_places(twin, other, named)
    for name, parameter in twin.named_parameters():
        if not parameter.is_meta and named(name) in weights:
            parameter.data = weights[named(name)].data.to(parameter.device)
    return twin


def _names(model: nn.Module, other: nn.Module) -> Callable[[str], str]:
    """What is called so in ``model`` is called in ``other``, the same without empty blocks."""
    blocks = Adapter(model).shape.blocks
    if len(blocks) == len(Adapter(other).blocks):
        return str
    left = [index for index, block in enumerate(blocks) if block.heads or block.channels]
    numbers = {str(index): str(number) for number, index in enumerate(left)}
    path = family_of(model.config).blocks

    def named(name: str) -> str:
        before, found, rest = name.partition(f"{path}.")
        index, dot, within = rest.partition(".")
        return f"{before}{found}{numbers.get(index, 'none')}{dot}{within}" if found else name

    return named
