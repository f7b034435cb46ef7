"""2SSP: FFN neurons by the norm of their activations, attention by a search (arXiv 2501.17771)."""

import torch
from torch import Tensor

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..progress import Progress, tracked
from ..store.resume import Journal
from .base import ChannelScores, Criterion, Style
from .greedy_search import memory, rank_channels, search
from .statistics import one_pass


class _SampleNorms:
    """The reducer: of the input of down, Σ_n ‖X_n,:,j‖₂ by channel, of samples n that come one by
    one."""

    sites = ("down",)

    def __init__(self) -> None:
        self.sums: dict[int, Tensor] = {}

    def take(self, block: int, site: str, x: Tensor) -> None:
        norm = torch.linalg.vector_norm(x.detach().flatten(0, -2), dim=0, dtype=torch.float32)
        before = self.sums.get(block)
        self.sums[block] = norm if before is None else before + norm


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
    norms = _SampleNorms()
    with tracked(progress).within(0.0, 0.1) as report:
        one_pass(adapter, calibration, norms, batch_size=1, progress=report)
    with tracked(progress).within(0.1, 1.0) as report:
        result = search(
            adapter,
            calibration,
            tokens=tokens,
            until=1.0,
            parts=("attention",),
            title="2SSP",
            done=journal.entries() if journal else (),
            on_step=journal.add if journal else None,
            progress=report,
        )
    ranks = rank_channels(adapter.shape, result.steps)
    return [
        ChannelScores(query=rank.query, shared=None, ffn=norms.sums[index] / calibration.samples)
        for index, rank in enumerate(ranks)
    ]


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
