"""The least and the greatest of a tensor's values, which tell whether all are numbers."""

import torch
from torch import Tensor


def is_finite(values: Tensor) -> bool:
    """Whether all ``values`` (any shape) are finite numbers. Nothing of their size is made: where
    one is not a number, their least and greatest are none either."""
    if not values.numel():
        return True
    return bool(torch.isfinite(torch.stack(torch.aminmax(values))).all())
