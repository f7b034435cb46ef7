"""What is not a finite number: whether it is the weights or an overflow, and what to do."""

import torch
from torch import Tensor, nn

from ..errors import InputError


def check_weights(name: str, model: nn.Module) -> None:
    """Raise InputError where weights of ``model`` are not finite numbers, with the reason."""
    odd = {key: weight for key, weight in model.named_parameters() if _is_odd(weight)}
    if not odd:
        return
    which = f"{len(odd)} of the tensors of {name}, {next(iter(odd))} among them,"
    if model.dtype == torch.float16 and not any(w.isnan().any() for w in odd.values()):
        raise InputError(f"{which} overflow float16; use --dtype bfloat16 or float32.")
    raise InputError(
        f"{which} hold values that are not finite numbers; the weights are damaged: get them "
        "again, or use others."
    )


def _is_odd(weight: Tensor) -> bool:
    """Whether a value is not finite; the sum tells quickly that none is, but may overflow."""
    if torch.isfinite(weight.sum(dtype=torch.float32)):
        return False
    return not torch.isfinite(weight).all()


def check_finite(value: float | Tensor, what: str, model: nn.Module) -> None:
    """Raise InputError where ``value``, ``what`` was computed with ``model``, is not finite."""
    values = torch.as_tensor(value)
    if torch.isfinite(values).all():
        return
    wider = {torch.float16: "bfloat16 or float32", torch.bfloat16: "float32"}.get(model.dtype)
    dtype = str(model.dtype).removeprefix("torch.")
    if wider:
        reason = f"its activations overflow {dtype}; use --dtype {wider}"
    else:
        reason = f"its activations overflow even {dtype}; this model cannot be measured"
    raise InputError(f"{what} of the model is not a finite number: {reason}.")
