"""Comparing what was read back from an export with what was written."""

import torch
from torch import nn

from ..errors import InputError
from ..evaluation.profiling import random_tokens
from ..models.adapters import Adapter
from ..models.running import evaluation_mode

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


@torch.no_grad()
def compare(
    model: nn.Module, form: nn.Module, again: nn.Module, *, tolerance: float | None = None
) -> float:
    """The largest difference between the logits of ``model`` and of ``again``.

    ``form``, which may not run, is ``model`` as it was written, and ``again`` what was read back.
    Raises InputError where a weight of those two differs in a bit, or the logits by more than
    ``tolerance`` times the largest; by default what rounding does.
    """
    written, read = form.state_dict(), again.state_dict()
    if written.keys() != read.keys() or not all(
        torch.equal(written[name].cpu(), read[name].cpu()) for name in written
    ):
        raise InputError("The export was not kept: its weights, read back, are not those written.")
    device = Adapter(model).input_device
    length = min(32, getattr(model.config, "max_position_embeddings", None) or 32)
    tokens = random_tokens(model, 2, length).to(device)
    with evaluation_mode(model):
        expected = model(input_ids=tokens, use_cache=False).logits.float().cpu()
    again = again.to(device).eval()
    logits = again(input_ids=tokens, use_cache=False).logits.float().cpu()
    scale = max(1.0, float(expected.abs().max()))
    difference = float((logits - expected).abs().max())
    if tolerance is None:
        tolerance = _TOLERANCE.get(form.dtype, 2e-2)
    if not difference <= tolerance * scale:
        raise InputError(
            f"The export was not kept: its logits, read back, differ by {difference:.2g}."
        )
    return difference
