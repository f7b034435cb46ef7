"""What is not a finite number: whether it is the weights or an overflow, and what to do."""

import torch
from torch import Tensor, nn

from ..errors import InputError
from .extremes import is_finite


def check_weights(name: str, model: nn.Module) -> None:
    """Raise InputError where weights of ``model`` are not finite numbers, with the reason."""
    odd = {key: weight for key, weight in model.named_parameters() if not is_finite(weight)}
    if not odd:
        return
    which = f"{len(odd)} of the tensors of {name}, {next(iter(odd))} among them,"
    if model.dtype == torch.float16 and not any(w.isnan().any() for w in odd.values()):
        raise InputError(f"{which} overflow float16; use --dtype bfloat16 or float32.")
    raise InputError(
        f"{which} hold values that are not finite numbers; the weights are damaged: get them "
        "again, or use others."
    )


def check_finite(value: float | Tensor, what: str, model: nn.Module) -> None:
    """Raise InputError where ``value``, ``what`` was computed with ``model``, is not finite."""
    if is_finite(torch.as_tensor(value)):
        return
    wider = {torch.float16: "bfloat16 or float32", torch.bfloat16: "float32"}.get(model.dtype)
    dtype = str(model.dtype).removeprefix("torch.")
    if wider:
        reason = f"its activations overflow {dtype}; use --dtype {wider}"
    else:
        reason = f"its activations overflow even {dtype}; this model cannot be measured"
    raise InputError(f"{what} of the model is not a finite number: {reason}.")
