"""Pairs of families and cases: every one of both comes up, not every one with every other."""

from collections.abc import Sequence
from itertools import cycle, islice


def in_turn(many: Sequence, few: Sequence, *, each: int = 2) -> list[tuple]:
    """Every one of ``many`` with ``each`` of ``few``, which are taken in turn."""
    turn = cycle(few)
    pairs = [(one, other) for one in many for other in islice(turn, each)]
    assert {other for _, other in pairs} == set(few), "each is too small for all to come up"
    return pairs
