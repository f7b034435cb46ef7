"""When a recovery sees what, and at which learning rate."""

import math

import torch
from torch import Tensor

from ..specs import RecoverySpec


def steps_of(spec: RecoverySpec) -> int:
    """How many optimiser steps the whole training has; the last batch of an epoch is smaller."""
    return spec.epochs * math.ceil(spec.samples / spec.batch_size)


def learning_rate(spec: RecoverySpec, step: int) -> float:
    """The learning rate of the optimiser step ``step``, from 0.

    Linear up to the spec's over the first share ``warmup`` of the S steps, W = ⌈warmup·S⌉, then
    half a cosine down: (1 + cos(π·(step − W) / (S − W))) / 2 of it (arXiv 1608.03983, without
    restarts).
    """
    total = steps_of(spec)
    rise = math.ceil(spec.warmup * total)
    if step < rise:
        return spec.learning_rate * (step + 1) / rise
    return spec.learning_rate * (1 + math.cos(math.pi * (step - rise) / max(total - rise, 1))) / 2


def batch_of(spec: RecoverySpec, step: int) -> Tensor:
    """The indices of the samples of the optimiser step ``step``, from 0; every epoch has an order
    of its own."""
    epoch, place = divmod(step, math.ceil(spec.samples / spec.batch_size))
    generator = torch.Generator().manual_seed((spec.seed + epoch) % 2**63)
    order = torch.randperm(spec.samples, generator=generator)
    return order[place * spec.batch_size : (place + 1) * spec.batch_size]
