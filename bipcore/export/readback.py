"""Comparing what was read back from an export with what was written."""

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..evaluation.profiling import random_tokens
from ..models.adapters import Adapter
from ..models.running import evaluation_mode
from ..models.streaming import is_streamed
from ..pruning.slicing import shallow_clone
from .number_types import in_type
from .streamed import move_places, same_tensors

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


@torch.no_grad()
def compare(
    model: nn.Module, form: nn.Module, again: nn.Module, *, tolerance: float | None = None
) -> float:
    """The largest difference between the logits of ``model`` and of ``again``.

    ``form``, which may not run, is ``model`` as it was written, and ``again`` what was read back.
    Raises InputError where a weight of those two differs in a bit, or the logits by more than
    ``tolerance`` times the largest; by default what the order of sums does. Where another type was
    written than ``model`` has, ``again`` is run in that of ``model``, and ``tolerance`` holds
    between it and ``model`` with its weights so rounded: what rounding does is in the figure alone.
    """
    if not same_tensors(form, again):
        raise InputError("The export was not kept: its weights, read back, are not those written.")
    dtype = next(model.parameters()).dtype
    again = again if is_streamed(again) else again.to(Adapter(model).input_device)
    again = in_type(again.eval(), dtype)
    tokens = _tokens(model)
    found, shown = _logits(again, tokens), _logits(model, tokens)
    same = form.dtype == dtype
    expected = shown if same else _logits(_with_weights(model, again), tokens)
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
    """``model`` with the weights that ``other`` has under the same names."""
    twin, weights = shallow_clone(model), dict(other.named_parameters())
    if is_streamed(twin):
        move_places(twin, other)
    for name, parameter in twin.named_parameters():
        if not parameter.is_meta:
            parameter.data = weights[name].data.to(parameter.device)
    return twin
