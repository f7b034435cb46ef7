"""A search for the lowest perplexity that removes whole sublayers, or blocks, one by one.

A sublayer is the attention or the FFN of a block. Again and again, the search tries the model
without each part that is left, and removes the one without which the perplexity of the calibration
tokens is lowest. The weights are never touched: parts are only switched off while the search runs.

What the search costs: a step tries every part that is left, each on all search tokens. The hidden
states before every block are kept, so that a trial runs only from its own block on.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..data.samples import CalibrationSet
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.running import (
    SUBLAYERS,
    enter_blocks,
    evaluation_mode,
    exp_of,
    leave_blocks,
    negative_log_likelihood,
    replaced_forwards,
    silent_sublayer,
)
from ..models.shapes import ModelShape
from ..progress import Progress, silent
from ..store.resume import Journal
from .base import ChannelScores
from .statistics import check_length

BATCH_TOKENS = 512
"""Short samples are run together, up to this many tokens; losses are taken as many at a time."""

BLOCK = "block"
"""What a search that removes both sublayers of a block together calls them."""


class Removal(NamedTuple):
    """One removal: ``sublayer`` ("attention", "ffn", or "block" for both) of block ``block``,
    counted from 0, and the perplexity of the search tokens without it and all that went before."""

    block: int
    sublayer: str
    perplexity: float


@dataclass(frozen=True)
class SearchResult:
    """The removals in their order; ``dense`` is the perplexity before the first."""

    dense: float
    steps: tuple[Removal, ...]


@torch.no_grad()
def search(
    adapter: Adapter,
    calibration: CalibrationSet,
    *,
    tokens: int = 512,
    until: float = 0.6,
    parts: Sequence[str] = SUBLAYERS,
    ends: int = 0,
    title: str = "Search",
    done: Iterable[Sequence] = (),
    on_step: Callable[[Removal], None] | None = None,
    progress: Progress | None = None,
) -> SearchResult:
    """Remove ``parts`` one by one, each time the one that leaves the lowest perplexity.

    ``parts``: `SUBLAYERS`, or (`BLOCK`,) for whole blocks, of which the first and the last
    ``ends`` are not tried. ``title`` is what the search is called in messages.
    ``tokens``: how many calibration tokens perplexity is taken on: the first of them, in whole
    samples, at least one; samples longer than ``tokens`` are cut. Each sample is one window.
    ``until``: stop when this share of the decoder blocks' parameters is gone, above 0, at most 1.
    One of each kind of part always stays. Of equals the earlier block goes, and its attention
    before its FFN.
    ``done``: the steps of a search that was interrupted, to go on from: (block, sublayer,
    perplexity) each. ``on_step`` is called with every new step, ``progress`` before every trial.
    The model is not changed. Raises InputError.
    """
    rows = _search_rows(adapter, calibration, tokens)
    course = _Course(adapter.shape, until, parts, ends, title)
    steps = course.resume(done)
    report = progress or silent
    with evaluation_mode(adapter.model):
        report(0.0, f"{title}: the model as it is")
        trials = _Trials(adapter, rows)
        dense = exp_of(trials.loss(len(adapter.blocks) - 1).item())
        trials.remove(steps)
        while candidates := course.candidates(steps):
            losses = []
            for candidate in candidates:
                report(*course.progress(dense, steps, len(losses) / len(candidates)))
                losses.append(trials.loss(*candidate))
            found = torch.stack(losses).tolist()  # waits for the device once a step
            least = min(found)
            step = Removal(*candidates[found.index(least)], exp_of(least))
            steps.append(step)
            if on_step is not None:
                on_step(step)
            trials.remove([step])
    report(1.0, course.progress(dense, steps, 0)[1])
    return SearchResult(dense, tuple(steps))


def _search_rows(adapter: Adapter, calibration: CalibrationSet, tokens: int) -> Tensor:
    """The token ids (N, T) that the search evaluates on."""
    if not isinstance(tokens, int) or tokens < 2:
        raise InputError(f"The search needs at least 2 tokens to evaluate on, not {tokens}.")
    if calibration.seq_len < 2:
        raise InputError("Perplexity needs calibration samples of at least 2 tokens, not 1.")
    length = min(calibration.seq_len, tokens)
    rows = calibration.tokens[: tokens // length, :length]
    check_length(adapter, CalibrationSet.from_tokens(rows))
    return rows


class _Course:
    """What may go next, and how far the search has come. Sizes only, no module."""

    def __init__(
        self, shape: ModelShape, until: float, parts: Sequence[str], ends: int, title: str
    ) -> None:
        if not 0 < until <= 1:
            raise InputError(
                "The share of the blocks' parameters to remove in the search is above 0 and at "
                f"most 1, not {until}."
            )
        self.until, self.parts, self.title = until, parts, title
        self.total = shape.block_parameters
        self.sizes: dict[tuple[int, str], int] = {}
        for index in range(ends, len(shape.blocks) - ends):
            block = shape.blocks[index]
            attention = block.heads * shape.head_cost.parameters
            attention += block.kv_heads * shape.kv_head_cost.parameters
            ffn = block.channels * shape.channel_cost.parameters
            sizes = {"attention": attention, "ffn": ffn, BLOCK: attention + ffn}
            self.sizes |= {(index, part): sizes[part] for part in parts if sizes[part]}
        self.most = self._most()

    @property
    def _said(self) -> str:
        return "blocks" if BLOCK in self.parts else "sublayers"

    def _most(self) -> int:
        """The most steps that there can be: the smallest sublayers first."""
        removable: list[int] = []
        for kind in self.parts:
            of_kind = [size for (_, sublayer), size in self.sizes.items() if sublayer == kind]
            removable += sorted(of_kind)[:-1]
        removed = 0
        for count, size in enumerate(sorted(removable)):
            if removed >= self.until * self.total:
                return count
            removed += size
        return len(removable)

    def removed(self, steps: Sequence[Removal]) -> int:
        """The parameters that ``steps`` remove."""
        return sum(self.sizes[step[:2]] for step in steps)

    def candidates(self, steps: Sequence[Removal]) -> list[tuple[int, str]]:
        """The sublayers to try after ``steps``, by block, attention first; none at the end."""
        if self.removed(steps) >= self.until * self.total:
            return []
        gone = {step[:2] for step in steps}
        left = [sublayer for sublayer in self.sizes if sublayer not in gone]
        counts = {kind: sum(name == kind for _, name in left) for kind in self.parts}
        return [(block, name) for block, name in left if counts[name] > 1]

    def resume(self, done: Iterable[Sequence]) -> list[Removal]:
        """``done`` as far as this course goes; raises InputError for what cannot be a step."""
        steps: list[Removal] = []
        for entry in done:
            candidates = self.candidates(steps)
            if not candidates:
                break
            if len(entry) != len(Removal._fields) or tuple(entry[:2]) not in candidates:
                raise InputError(
                    f"Step {len(steps) + 1} of the interrupted search, {list(entry)}, cannot be "
                    "one of this model; search anew."
                )
            steps.append(Removal(int(entry[0]), entry[1], float(entry[2])))
        return steps

    def progress(self, dense: float, steps: Sequence[Removal], tried: float) -> tuple[float, str]:
        """The fraction and the message after ``steps``, when the share ``tried`` of the next
        step's candidates has been tried."""
        sizes = [self.sizes[candidate] for candidate in self.candidates(steps)]
        ahead = tried * min(sizes, default=0)
        fraction = min((self.removed(steps) + ahead) / (self.until * self.total), 1.0)
        perplexity = steps[-1].perplexity if steps else dense
        return fraction, (
            f"{self.title}: removed {len(steps)} of up to {self.most} {self._said}, "
            f"perplexity {perplexity:,.1f}"
        )


class _Trials:
    """The model on the search tokens without the sublayers removed so far.

    ``hidden[b][l]`` (B, T, d) enters block l in batch b. ``off`` holds what modules of the removed
    sublayers do, for `replaced_forwards`.
    """

    def __init__(self, adapter: Adapter, rows: Tensor):
        self.adapter = adapter
        self.predicted = rows.shape[0] * (rows.shape[1] - 1)
        self.off: dict[nn.Module, Callable[..., Any]] = {}
        self.batches = rows.split(max(1, BATCH_TOKENS // rows.shape[1]))
        self.entrances = [enter_blocks(adapter, batch) for batch in self.batches]
        self.hidden = [[entrance.hidden] for entrance in self.entrances]
        self._fill(0)

    def remove(self, steps: Sequence[Removal]) -> None:
        """Switch the sublayers of ``steps`` off for good."""
        for step in steps:
            self.off |= self._silent(step.block, step.sublayer)
        if steps:
            self._fill(min(step.block for step in steps))

    def _silent(self, block: int, part: str) -> dict[nn.Module, Callable[..., Any]]:
        """What modules do, for `replaced_forwards`, where this part of a block is gone."""
        off: dict[nn.Module, Callable[..., Any]] = {}
        for sublayer in SUBLAYERS if part == BLOCK else (part,):
            off |= silent_sublayer(self.adapter.blocks[block], sublayer)
        return off

    def _fill(self, first: int) -> None:
        """Compute anew what enters the blocks after block ``first``."""
        between = range(first, len(self.adapter.blocks) - 1)
        with replaced_forwards(self.off):
            for entrance, hidden in zip(self.entrances, self.hidden, strict=True):
                del hidden[first + 1 :]
                for index in between:
                    module = self.adapter.blocks[index].module
                    hidden.append(entrance.run(index, module, hidden[index]))

    def loss(self, first: int, sublayer: str | None = None) -> Tensor:
        """Mean negative log-likelihood, blocks being run from ``first`` on, with that block's
        ``sublayer`` off too, if one is given; a number in float64, where the logits are. Not a
        number counts as infinite."""
        off = dict(self.off)
        if sublayer is not None:
            off |= self._silent(first, sublayer)
        total = None
        with replaced_forwards(off):
            parts = zip(self.batches, self.entrances, self.hidden, strict=True)
            for batch, entrance, kept in parts:
                hidden = kept[first]
                for index in range(first, len(self.adapter.blocks)):
                    hidden = entrance.run(index, self.adapter.blocks[index].module, hidden)
                logits = leave_blocks(self.adapter, batch, hidden)
                loss = negative_log_likelihood(logits, batch)
                total = loss if total is None else total + loss
        return (total / self.predicted).nan_to_num(nan=math.inf, posinf=math.inf)


def searched(
    adapter: Adapter,
    calibration: CalibrationSet,
    progress: Progress,
    journal: Journal | None,
    **settings: Any,
) -> list[ChannelScores]:
    """The order of removal that `search` finds with these settings, as scores.

    Steps that ``journal`` has are not searched again; those taken are added to it.
    """
    kept = {"done": journal.entries(), "on_step": journal.add} if journal else {}
    result = search(adapter, calibration, progress=progress, **kept, **settings)
    return rank_channels(adapter.shape, result.steps)


def rank_channels(shape: ModelShape, steps: Sequence[Removal]) -> list[ChannelScores]:
    """k for every channel of what the k-th of ``steps`` removes, counted from 1.

    Those of a sublayer that stays get one more than there are steps. So the mean of a sublayer's
    channel scores is its rank.
    """
    last = len(steps) + 1
    ranks = {(index, part): last for index in range(len(shape.blocks)) for part in SUBLAYERS}
    for rank, (index, part, _) in enumerate(steps, start=1):
        ranks |= {(index, one): rank for one in (SUBLAYERS if part == BLOCK else (part,))}
    return [
        level(shape, index, float(ranks[index, "attention"]), float(ranks[index, "ffn"]))
        for index in range(len(shape.blocks))
    ]


def level(shape: ModelShape, index: int, attention: float, ffn: float) -> ChannelScores:
    """The scores of block ``index``, one for all channels of its attention and one for its FFN."""
    block = shape.blocks[index]
    query = torch.full((block.heads * shape.head_dim,), attention)
    return ChannelScores(query, shared=None, ffn=torch.full((block.channels,), ffn))


def memory(
    shape: ModelShape,
    seq_len: int,
    *,
    element_size: int = 4,
    tokens: int = 512,
    until: float = 0.6,
) -> int:
    """Bytes: the hidden states (tokens × d) before every block in the model's type, and the logits
    (T × V) of one batch twice, in float32."""
    vocabulary = shape.other_weights // shape.hidden
    batch = max(min(seq_len, tokens), BATCH_TOKENS)
    hidden = element_size * tokens * shape.hidden * len(shape.blocks)
    return hidden + 4 * 2 * batch * vocabulary
