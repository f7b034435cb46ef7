"""When what is trained on, and how fast: the course of a recovery, from its spec alone."""

import math

import torch
from torch import Tensor

from ..errors import InputError, check_seed
from ..specs import RecoverySpec


def check_recovery(spec: RecoverySpec) -> None:
    """Raise InputError for settings that cannot be. Nothing is loaded for it."""
    at_least_1 = ("rank", "samples", "batch_size", "epochs", "validate_every")
    for name in at_least_1:
        if getattr(spec, name) < 1:
            said = name.replace("_", " ")
            raise InputError(f"The {said} of a recovery is at least 1, not {getattr(spec, name)}.")
    if spec.seq_len < 2:
        raise InputError(f"A training sample has at least 2 tokens, not {spec.seq_len}.")
    if not (0 < spec.learning_rate < math.inf and 0 < spec.alpha < math.inf):
        raise InputError("The learning rate and alpha of a recovery are above 0.")
    if not (0 <= spec.dropout < 1 and 0 <= spec.warmup < 1 and 0 <= spec.weight_decay < math.inf):
        raise InputError(
            "Dropout and warm-up are from 0 to below 1, and the weight decay at least 0."
        )
    if spec.validation < 0 or spec.patience < 0:
        raise InputError("The held-out samples and the patience are at least 0.")
    if spec.patience and not spec.validation:
        raise InputError("To stop early, samples have to be held out; give some for validation.")
    check_seed(spec.seed)


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
