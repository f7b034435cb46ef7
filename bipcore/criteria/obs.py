"""OBS: what it costs a sublayer that a channel or a head goes, and the rest is refitted.

The elimination is that of ZipLM (arXiv 2302.04089) and OSSCAR (arXiv 2403.12983): units go one by
one, the cheapest first, and the columns that stay are refitted after each. Ours are: scores that
keep this order at every sparsity, so that one elimination serves all of them; the ridge, a share
of each input's own mean square as in least squares; and one query head of every KV group at a time
where heads share key/value heads, all choices being tried where they are few.
"""

import torch
from torch import Tensor

from ..models.shapes import ModelShape
from .base import BlockCurves, ChannelScores, Criterion, CurveSettings, Style
from .elimination import Elimination

RIDGE = 0.1
"""The middle of what least squares chooses on held-out tokens, on the demo model."""

_APART = 1e-5  # by what share a unit's score is at least above that of the one before


def channel_scores(curves: BlockCurves, head_dim: int) -> ChannelScores:
    """By how much the error rises when each channel goes, in its turn.

    The order of the scores is that in which channels, heads and KV groups went: where one costs
    less than one before it, it has the score of that one and a hundred-thousandth. A head's is
    spread over its channels evenly, and what a round takes over the heads that went in it.
    """
    heads, group = _by_unit(curves.heads), curves.heads.order.shape[0]
    shared = None
    if len(heads) > 1 and group > 1:
        kv_groups = _by_unit(curves.kv_groups)[0]  # (K,)
        shared = (heads.sum(1) - kv_groups) / (group - 1)  # then they add up to kv_groups
        heads = heads - shared[:, None]
        shared = (shared / head_dim).repeat_interleave(head_dim)
    query = (heads.reshape(-1) / head_dim).repeat_interleave(head_dim)
    return ChannelScores(query, shared, _by_unit(curves.ffn).reshape(-1))


def _by_unit(curve: Elimination) -> Tensor:
    """The rise of each unit's round, made to rise from round to round: (sets, units)."""
    rounds, sets = curve.order.shape
    if not rounds:
        return torch.zeros(sets, 0, dtype=torch.float64)
    apart = torch.arange(rounds) * torch.log1p(torch.tensor(_APART, dtype=torch.float64))
    rises = ((curve.errors.diff() / max(sets, 1)).log() - apart).cummax(0).values
    values = torch.zeros(rounds, sets, dtype=torch.float64)
    return values.scatter_(0, curve.order, (rises + apart).exp()[:, None].expand(-1, sets)).T


def memory(shape: ModelShape, seq_len: int, *, element_size: int = 4, ridge: float = RIDGE) -> int:
    """Bytes beside the model: the second moments of one block, and six matrices in float64 of the
    widest projection's inputs."""
    widths = [(block.heads * shape.head_dim, block.channels) for block in shape.blocks]
    return max(4 * (o**2 + down**2) + 48 * max(o, down) ** 2 for o, down in widths)


CRITERION = Criterion(
    name="obs",
    title="OBS",
    formula="the rise of min ‖X Wᵀ − X_K Ŵᵀ‖² when it goes, after all that cost less",
    reference="https://arxiv.org/abs/2302.04089",
    needs="second moments",
    style=Style("#D55E00", "dashdot", "hexagon"),
    passes=lambda shape: 1,
    score_curves=channel_scores,
    curves=CurveSettings(ridge=RIDGE),
    options={"ridge": RIDGE},
    memory=memory,
    compensation="least-squares",
)
