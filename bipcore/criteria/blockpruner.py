"""BlockPruner: whole sublayers, in the order of a perplexity search (arXiv 2406.10594)."""

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter
from ..progress import Progress
from ..store.resume import Journal
from .base import ChannelScores, Criterion, Style
from .greedy_search import memory, searched


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
    how = {"tokens": tokens, "until": until}
    return searched(adapter, calibration, progress, journal, title="BlockPruner", **how)


CRITERION = Criterion(
    name="blockpruner",
    title="BlockPruner",
    formula="the step at which a search for the lowest perplexity removes the whole sublayer",
    reference="https://arxiv.org/abs/2406.10594",
    needs="search",
    style=Style("#000000", "dash", "star"),
    passes=lambda shape: 2 * len(shape.blocks) ** 2,
    score_model=score_model,
    options={"tokens": 512, "until": 0.6},
    memory=memory,
    allocation="sublayer",
)
