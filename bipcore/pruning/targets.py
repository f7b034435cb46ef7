"""What a pruned model may cost: a target such as params=60M, bytes=200MB@q8_0, macs=40G or
latency=30ms."""

import math
import re
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import InputError, short
from ..models.shapes import ModelShape
from .decode_times import DecodeTimes

TOKENS = 512
"""The tokens of the pass whose multiply-accumulates count."""

BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}
"""Bytes of a weight by the type it is written in; the last two are GGUF's blocks of 32 weights and
one 16-bit scale."""

CONTEXT = 128
"""The tokens in the cache of a token of decoding whose time counts, where a target says none."""

KINDS = ("params", "bytes", "macs", "latency")
_UNITS = {"": 1, "K": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "KB": 1e3, "MB": 1e6, "GB": 1e9}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "MS": 1}
_ALLOWED = {"bytes": {*_UNITS, "%"} - {"MS"}, "latency": {"MS", "%"}}


@dataclass(frozen=True)
class Target:
    """At most ``amount`` of ``kind``, one of `KINDS`, the whole model counted; of bytes, with the
    weights in ``dtype``; of latency, milliseconds a token of decoding behind ``context`` tokens, by
    the measured ``times``, without which nothing costs anything known. ``share``: the amount is one
    of the dense model's. ``text`` is as it was said."""

    kind: str
    amount: float
    share: bool
    dtype: str
    text: str
    context: int = CONTEXT
    times: DecodeTimes | None = None

    def cost(self, shape: ModelShape) -> float:
        """What a model of the sizes ``shape`` costs: a sum over the sublayers of its blocks.

        Parameters; bytes of the weights, what belongs to no head and no channel in a block being
        in float32; the multiply-accumulates of a pass over `TOKENS` tokens; or milliseconds.
        """
        if self.kind == "latency":
            if self.times is None:
                raise InputError("A target of latency needs times that were measured.")
            return self.times.milliseconds(shape)
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
        """``amount`` as a target says it, one of latency rounded up."""
        if self.kind == "latency":
            return f"latency={math.ceil(1000 * amount) / 1000:g}ms@{self.context}"
        behind = f"@{self.dtype}" if self.kind == "bytes" else ""
        for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
            if amount >= size:
                return f"{self.kind}={amount / size:.4g}{unit}{behind}"
        return f"{self.kind}={amount:.4g}{behind}"


def read_target(text: str) -> Target:
    """The target in ``text``: kind=amount, an amount being a number with K, M, G (of bytes also KB,
    MiB, ..., of latency ms) or a share of the dense model's in %; behind an @ the type of the
    weights, or the tokens in the cache. Raises InputError."""
    kind, _, rest = text.partition("=")
    if kind not in KINDS:
        raise InputError(
            f"There is no target of the kind {short(repr(kind))}; there are {', '.join(KINDS)}, "
            "such as params=50% or bytes=200MB@q8_0."
        )
    amount, at, after = rest.partition("@")
    if kind not in ("bytes", "latency") and at:
        raise InputError(
            f"A target of {kind} has no type of weights; leave out {short(at + after)}."
        )
    if kind == "bytes" and after not in BYTES:
        raise InputError(
            f"A target of bytes says the type of the weights, bytes=...@{'|'.join(BYTES)}, not "
            f"{short(repr(text))}."
        )
    size, unit = _amount(kind, amount)
    if kind == "latency":
        return Target(kind, size, unit == "%", "", text, _context(after) if at else CONTEXT)
    return Target(kind, size, unit == "%", after, text)


def _amount(kind: str, text: str) -> tuple[float, str]:
    """The number that ``text`` says, and its unit; raises InputError."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(%|[A-Za-z]{0,3})", text.strip(), flags=re.ASCII)
    unit = found.group(2).upper() if found else ""
    allowed = _ALLOWED.get(kind, {"", "K", "M", "G", "T", "%"})
    if not found or unit not in allowed or not float(found.group(1)):
        such = "30ms or 60%" if kind == "latency" else "60M or 50%"
        raise InputError(
            f"The amount of a target{' of latency' if kind == 'latency' else ''} is a number above "
            f"0 such as {such}, not {short(repr(text))}."
        )
    return float(found.group(1)) * (0.01 if unit == "%" else _UNITS[unit]), unit


def _context(text: str) -> int:
    """The tokens behind the @ of a target of latency; raises InputError."""
    if not re.fullmatch(r"[1-9]\d{0,8}", text, flags=re.ASCII):
        raise InputError(
            f"A target of latency says how many tokens are in the cache, latency=30ms@{CONTEXT}, "
            f"not {short(repr(text))}."
        )
    return int(text)


def block_costs(target: Target, shape: ModelShape) -> Callable[..., float]:
    """What one block of given widths adds to the cost, as a function of its `BlockShape`."""
    outside = target.cost(shape.with_blocks(()))
    return lambda block: target.cost(shape.with_blocks((block,))) - outside
