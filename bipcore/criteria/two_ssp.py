"""2SSP: FFN neurons by the norm of their activations, attention by a search (arXiv 2501.17771)."""

import torch
from torch import Tensor

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..progress import Progress, tracked
from ..store.resume import Journal
from .base import ChannelScores, Criterion, Style
from .greedy_search import memory, searched
from .per_sample import sums_over_samples


def score_model(
    adapter: Adapter,
    calibration: CalibrationSet,
    progress: Progress,
    *,
    journal: Journal | None = None,
    tokens: int = 512,
) -> list[ChannelScores]:
    """Of an FFN channel the mean over the samples of ‖X_:,j‖₂ over their tokens; of attention the
    step at which a search for the lowest perplexity removes it.

    The authors search in the model whose FFNs are pruned already, on one sample of 2,048 tokens;
    here it is the dense one, so that the scores hold for any sparsity, on the first ``tokens``.
    """
    with tracked(progress).within(0.0, 0.1) as report:
        norms = sums_over_samples(adapter, calibration, ("down",), _norm, report)
    with tracked(progress).within(0.1, 1.0) as report:
        how = {"parts": ("attention",), "title": "2SSP", "tokens": tokens, "until": 1.0}
        ranks = searched(adapter, calibration, report, journal, **how)
    return [
        ChannelScores(rank.query, shared=None, ffn=norms[index, "down"] / calibration.samples)
        for index, rank in enumerate(ranks)
    ]


def _norm(x: Tensor) -> Tensor:
    """‖X_:,j‖₂ of the inputs (T, n) of one sample, (n,)."""
    return torch.linalg.vector_norm(x, dim=0, dtype=torch.float32)


CRITERION = Criterion(
    name="2ssp",
    title="2SSP",
    formula="mean over samples of ‖X_j‖₂ for channels; the step of a search for whole attentions",
    reference="https://arxiv.org/abs/2501.17771",
    needs="search",
    style=Style("#56B4E9", "dot", "bowtie"),
    passes=lambda shape: len(shape.blocks) ** 2 // 2,
    score_model=score_model,
    options={"tokens": 512},
    memory=memory,
    allocation="two-stage",
)
