"""How long one token of greedy decoding takes by the widths of the blocks: a measured table.

    T = outside + Σ_blocks (attention(heads) + ffn(channels))

What a block takes beside the two (norms, the calls themselves) is in ``outside``: a block whose
sublayers are gone keeps its modules. Between two widths that were measured times are interpolated.
"""

import bisect
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from ..errors import InputError
from ..models.shapes import BlockShape, ModelShape
from ..specs import UNITS
from ..store.kinds import Kind

Series = tuple[tuple[int, float], ...]
"""Milliseconds by width, both ascending, from (0, 0) on."""

POINTS = 8
"""About so many widths of each sublayer are measured."""


@dataclass(frozen=True)
class DecodeTimes:
    """Milliseconds: of an attention by its query heads, of an FFN by its channels, and of all that
    is ``outside`` of these."""

    attention: Series
    ffn: Series
    outside: float

    def milliseconds(self, shape: ModelShape) -> float:
        """What a token takes of a model of the sizes ``shape``."""
        blocks = (
            _at(self.attention, block.heads) + _at(self.ffn, block.channels)
            for block in shape.blocks
        )
        return self.outside + sum(blocks)


def _at(series: Series, width: int) -> float:
    """The time at ``width``; one beyond the last width counts as that."""
    place = bisect.bisect_left(series, width, key=lambda point: point[0])
    if place == len(series):
        return series[-1][1]
    after, later = series[place]
    if place == 0 or after == width:
        return later
    before, earlier = series[place - 1]
    return earlier + (later - earlier) * (width - before) / (after - before)


def ascending(times: Sequence[float]) -> list[float]:
    """The never falling row that is nearest to ``times`` in least squares: pool adjacent
    violators. Noise cannot make a narrower block look slower than a wider one then."""
    pools: list[tuple[float, int]] = []
    for time in times:
        mean, count = float(time), 1
        while pools and pools[-1][0] > mean:
            before, of = pools.pop()
            mean, count = (before * of + mean * count) / (of + count), of + count
        pools.append((mean, count))
    return [mean for mean, count in pools for _ in range(count)]


def smoothed(widths: Sequence[int], times: Sequence[float], blocks: int) -> Series:
    """The series of one sublayer of a block, from milliseconds of a whole model of which so many
    ``blocks`` have the sublayer at each of ``widths``, ascending from 0."""
    rising = ascending(times)
    each = ((time - rising[0]) / blocks for time in rising)
    return tuple(zip(widths, each, strict=True))


def measured_widths(shape: ModelShape, unit: str) -> tuple[list[BlockShape], list[int]]:
    """What to measure: widths of the attention, by the attention ``unit``, and of the FFN, each
    from gone to whole. Raises InputError for a model that a table cannot be of."""
    if len(set(shape.blocks)) > 1 or len(shape.blocks) < 2:
        raise InputError(
            "A target of latency takes a model of two blocks or more, all of the same widths."
        )
    whole = shape.blocks[0]
    most = {UNITS.QUERY_HEAD: whole.group, UNITS.NONE: 1}.get(unit, whole.kv_heads)
    attention = []
    for count in _picked(most):
        share = whole.kv_heads if count else 0
        if unit == UNITS.QUERY_HEAD:
            attention.append(BlockShape(count * share, share, whole.channels))
        elif unit == UNITS.NONE:
            attention.append(BlockShape(count * whole.heads, share, whole.channels))
        else:
            attention.append(BlockShape(count * whole.group, count, whole.channels))
    step = 2 ** max((whole.channels // 64).bit_length() - 1, 0)  # even widths, as plans have
    ffn = {width // step * step for width in _picked(whole.channels)}
    return attention, sorted({min(step, whole.channels), whole.channels} | ffn)


def _picked(most: int) -> list[int]:
    """0, 1 and ``most``, and what lies about evenly between, ascending."""
    return sorted({0, 1, *(round(most * part / POINTS) for part in range(1, POINTS + 1))})


def _read(_, data: dict) -> DecodeTimes:
    pairs = (tuple((int(w), float(t)) for w, t in data[name]) for name in ("attention", "ffn"))
    return DecodeTimes(*pairs, outside=float(data["outside"]))


DECODE_TIMES = Kind(
    "decode-times",
    "how long a token of decoding takes by the widths of the blocks",
    version=3,
    write=lambda times: ({}, asdict(times)),
    read=_read,
)
