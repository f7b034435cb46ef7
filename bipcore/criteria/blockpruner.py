"""BlockPruner: whole sublayers, in the order of a perplexity search (arXiv 2406.10594)."""

from collections.abc import Sequence

import torch

from ..data.calibration import CalibrationSet
from ..models.adapters import Adapter
from ..models.shapes import ModelShape
from ..progress import Progress
from ..store.journal import Journal
from .base import ChannelScores, Criterion
from .search import BATCH_TOKENS, Step, search


def score_model(
    adapter: Adapter,
    calibration: CalibrationSet,
    progress: Progress,
    *,
    journal: Journal | None = None,
    tokens: int = 512,
    until: float = 0.6,
) -> list[ChannelScores]:
    """The order of removal that `search.search` finds with these options, as scores.

    Steps that ``journal`` has are not searched again; those taken are added to it.
    """
    result = search(
        adapter,
        calibration,
        tokens=tokens,
        until=until,
        done=journal.entries() if journal else (),
        on_step=journal.add if journal else None,
        progress=progress,
    )
    return rank_channels(adapter.shape, result.steps)


def rank_channels(shape: ModelShape, steps: Sequence[Step]) -> list[ChannelScores]:
    """k for every channel of the sublayer that the k-th of ``steps`` removes, counted from 1.

    Those of a sublayer that stays get one more than there are steps. So the mean of a sublayer's
    channel scores is its rank.
    """
    ranks = {step[:2]: rank for rank, step in enumerate(steps, start=1)}
    last = len(steps) + 1
    return [
        ChannelScores(
            query=torch.full(
                (block.heads * shape.head_dim,), float(ranks.get((index, "attention"), last))
            ),
            shared=None,
            ffn=torch.full((block.channels,), float(ranks.get((index, "ffn"), last))),
        )
        for index, block in enumerate(shape.blocks)
    ]


def memory(shape: ModelShape, seq_len: int, *, tokens: int = 512, until: float = 0.6) -> int:
    """Bytes: the hidden states (tokens × d) before every block, and the logits (T × V) of one
    batch twice, all in float32."""
    vocabulary = shape.other_weights // shape.hidden
    batch = max(min(seq_len, tokens), BATCH_TOKENS)
    return 4 * (tokens * shape.hidden * len(shape.blocks) + 2 * batch * vocabulary)


CRITERION = Criterion(
    name="blockpruner",
    title="BlockPruner",
    formula="the step at which a search for the lowest perplexity removes the whole sublayer",
    reference="https://arxiv.org/abs/2406.10594",
    needs="search",
    score_model=score_model,
    options={"tokens": 512, "until": 0.6},
    memory=memory,
    allocation="sublayer",
)
