"""Texts in stated shares: ``c4:0.7,wikitext2:0.3``."""

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from ..errors import InputError, short
from .samples import CalibrationSet

_PART = re.compile(r"(?P<source>[^,]+):(?P<share>\d*\.?\d+)", re.ASCII)


@dataclass(frozen=True)
class Part:
    """One text of a mixture, and its share of the samples, above 0."""

    source: str
    share: float


def parts_of(source: str) -> tuple[Part, ...]:
    """The texts of a mixture, ``name:share`` with commas between; none where ``source`` is one
    text. Raises InputError for shares that do not add up to 1, or a text that is named twice."""
    found = [_PART.fullmatch(piece.strip()) for piece in source.split(",")]
    if len(found) < 2 or not all(found):
        return ()
    parts = tuple(Part(one["source"], float(one["share"])) for one in found)
    total = sum(part.share for part in parts)
    if abs(total - 1) > 1e-3 or not all(part.share for part in parts):
        raise InputError(
            f"The shares of {short(repr(source))} are numbers above 0 that add up to 1, such as "
            f"c4:0.7,wikitext2:0.3; these add up to {total:g}."
        )
    names = [part.source for part in parts]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"The text {short(repr(twice[0]))} is in the mixture twice; name it once.")
    return parts


def counts_of(parts: Sequence[Part], samples: int) -> list[int]:
    """How many of ``samples`` each part gives: its share to the nearest whole one, such that they
    add up (what is left over goes to the largest remainders). Raises InputError where one has
    none."""
    exact = [part.share * samples for part in parts]
    counts = [int(one + 1e-9) for one in exact]
    by_remainder = sorted(range(len(parts)), key=lambda at: counts[at] - exact[at])
    for at in by_remainder[: samples - sum(counts)]:
        counts[at] += 1
    if 0 in counts:
        none = parts[counts.index(0)]
        raise InputError(
            f"Of {samples:,} samples the share {none.share:g} of {short(repr(none.source))} is "
            "none; ask for more samples."
        )
    return counts


def identity_of(parts: Sequence[Part], identify: Callable[[str], str]) -> str:
    """What identifies the content of all texts, given that of each."""
    said = "\0".join(f"{identify(part.source)}:{part.share!r}" for part in parts)
    return f"sha256:{hashlib.sha256(said.encode()).hexdigest()}"


def mixed(source: str, sets: Sequence[CalibrationSet], seed: int) -> CalibrationSet:
    """The samples of all ``sets``, of the same length, in an order that ``seed`` draws."""
    tokens = torch.cat([one.tokens for one in sets])
    order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(seed))
    split = " + ".join(f"{one.source} ({one.split})" for one in sets)
    return replace(sets[0], tokens=tokens[order], source=source, split=split)
