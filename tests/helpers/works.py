"""Works for a worker's process, which has to be able to import them."""

import os
import time
from pathlib import Path

import torch
from torch import nn

from bipcore.errors import InputError
from bipcore.pipeline.kept import DENSE
from bipcore.specs import ModelSpec


class Unreadable:
    """Can be sent, and not be read."""

    def __reduce__(self):
        return int, ("no number",)


def where(*arguments) -> int:
    """The process."""
    return os.getpid()


def endless(pipeline, job):
    """Goes on until it is stopped."""
    job.partial = "begun"
    while True:
        job.report(0.5, "going on")
        time.sleep(0.01)


def deaf(*arguments):
    """Goes on though it should stop; says so by a file or its partial result."""
    if isinstance(arguments[0], Path):
        arguments[0].touch()
    else:
        arguments[-1].partial = "begun"
    time.sleep(600)


def busy(reached: str, *arguments):
    """Computes without end, and looks up only to compute again; says in which process."""
    Path(reached).write_text(str(os.getpid()))
    matrix = torch.rand(3000, 3000)
    while True:
        matrix = torch.linalg.matrix_exp(matrix / 3000)


def refuse(sentence, pipeline, job):
    raise InputError(sentence)


def odd(pipeline, job):
    raise KeyError("inner")


def unsendable(pipeline, job):
    return lambda: None


def keep(pipeline, job):
    layer = nn.Linear(1000, 1, bias=False)
    pipeline.bench.kept.put(DENSE, "tiny", ModelSpec("tiny"), layer)
    return torch.numel(layer.weight)


def let_go(pipeline, job):
    pipeline.bench.kept.clear()
