"""What a pruned model may cost: a target such as params=60M, bytes=200MB@q8_0 or macs=40G."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError, short
from ..models.shapes import ModelShape

TOKENS = 512
"""The tokens of the pass whose multiply-accumulates count."""

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of a weight by the type it is written in; the last two are GGUF's blocks of 32 weights and
one 16-bit scale."""

KINDS = ("params", "bytes", "macs")
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


@dataclass(frozen=True)
class Target:
    """At most ``amount`` of ``kind``, one of `KINDS`, the whole model counted; of bytes, with the
    weights in ``dtype``. ``share``: the amount is one of the dense model's. ``text`` is as it was
    said."""

    kind: str
    amount: float
    share: bool
    dtype: str
    text: str

    def cost(self, shape: ModelShape) -> float:
        """What a model of the sizes ``shape`` costs: linear in its widths.

        Parameters; bytes of the weights, what belongs to no head and no channel in a block being
        in float32; or the multiply-accumulates of a pass over `TOKENS` tokens.
        """
        if self.kind == "params":
            return shape.parameters
        if self.kind == "macs":
            return shape.macs(TOKENS)
        fixed = shape.block_fixed * len(shape.blocks)
        return BYTES[self.dtype] * (shape.parameters - fixed) + 4 * fixed

    def limit(self, dense: ModelShape) -> float:
        """The most that the pruned form of ``dense`` may cost. Raises InputError where that is no
        less than ``dense`` does."""
        whole = self.cost(dense)
        limit = self.amount * whole if self.share else self.amount
        if limit >= whole:
            raise InputError(
                f"The target {self.text} is not below what the dense model has, "
                f"{self.said(whole)}; there is nothing to remove."
            )
        return limit

    def said(self, amount: float) -> str:
        """``amount`` as a target says it."""
        behind = f"@{self.dtype}" if self.kind == "bytes" else ""
        for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
            if amount >= size:
                return f"{self.kind}={amount / size:.4g}{unit}{behind}"
        return f"{self.kind}={amount:.4g}{behind}"


def read_target(text: str) -> Target:
    """The target in ``text``: kind=amount, an amount being a number with K, M, G (of bytes also KB,
    MiB, ...) or a share of the dense model's in %. Raises InputError."""
    kind, _, rest = text.partition("=")
    if kind not in KINDS:
        raise InputError(
            f"There is no target of the kind {short(repr(kind))}; there are {', '.join(KINDS)}, "
            "such as params=50% or bytes=200MB@q8_0."
        )
    amount, at, dtype = rest.partition("@")
    if kind != "bytes" and at:
        raise InputError(
            f"A target of {kind} has no type of weights; leave out {short(at + dtype)}."
        )
    if kind == "bytes" and dtype not in BYTES:
        raise InputError(
            f"A target of bytes says the type of the weights, bytes=...@{'|'.join(BYTES)}, not "
            f"{short(repr(text))}."
        )
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[A-Za-z]{0,3})", amount.strip(), flags=re.ASCII)
    unit = found.group(2).upper() if found else ""
    allowed = {*_UNITS, "%"} if kind == "bytes" else {"", "K", "M", "G", "T", "%"}
    if not found or unit not in allowed or not float(found.group(1)):
        raise InputError(
            f"The amount of a target is a number above 0 such as 60M or 50%, not "
            f"{short(repr(amount))}."
        )
    size = float(found.group(1)) * (0.01 if unit == "%" else _UNITS[unit])
    return Target(kind, size, unit == "%", dtype, text)


def block_costs(target: Target, shape: ModelShape) -> Callable[..., float]:
    """What one block of given widths adds to the cost, as a function of its `BlockShape`."""
    outside = target.cost(shape.with_blocks(()))
    return lambda block: target.cost(shape.with_blocks((block,))) - outside
