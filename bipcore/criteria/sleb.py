"""SLEB: whole blocks, in the order of a perplexity search (arXiv 2402.09025).

As published, the first and the last block always stay, and after every removal all that are left
are tried anew. Its authors search on 128 samples of WikiText-2; here it is the calibration set.
"""

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..progress import Progress
from ..store.resume import Journal
from .base import ChannelScores, Criterion, Style
from .greedy_search import BLOCK, memory, searched


def score_model(
    adapter: Adapter,
    calibration: CalibrationSet,
    progress: Progress,
    *,
    journal: Journal | None = None,
    tokens: int = 512,
    until: float = 0.6,
) -> list[ChannelScores]:
    """The order in which the search removes them with these options, as scores (see `searched`)."""
    how = {"tokens": tokens, "until": until, "parts": (BLOCK,), "ends": 1}
    return searched(adapter, calibration, progress, journal, title="SLEB", **how)


CRITERION = Criterion(
    name="sleb",
    title="SLEB",
    formula="the step at which a search for the lowest perplexity removes the whole block",
    reference="https://arxiv.org/abs/2402.09025",
    needs="search",
    style=Style("#000000", "dot", "hexagram"),
    passes=lambda shape: len(shape.blocks) ** 2 // 2,
    score_model=score_model,
    options={"tokens": 512, "until": 0.6},
    memory=memory,
    allocation="block",
)
