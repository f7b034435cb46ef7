"""OBS weighed by the Fisher matrix of the sublayer's output: the predicted rise of the loss.

As `obs`, but for the error: ½·tr(M·D), with D the second moments of the change of the output and M
the mean of g gᵀ over its gradients (see `fisher`). That is the curvature of LLM Surgeon (arXiv
2312.17244), output and input apart, in ZipLM's elimination; labels drawn from the model, half of M
replaced by its mean, and the ridge are ours. The refit that follows is the same: which weights are
best does not depend on M.
"""

from ..models.shapes import ModelShape
from .base import Criterion, CurveSettings, Style
from .fisher import memory as memory_of_fisher
from .obs import RIDGE, channel_scores
from .obs import memory as memory_of_obs

CURVES = CurveSettings(ridge=RIDGE, fisher=True)


def memory(
    shape: ModelShape,
    seq_len: int,
    *,
    element_size: int = 4,
    ridge: float = RIDGE,
    tokens: int = CURVES.tokens,
) -> int:
    """Bytes beside the model: those of the Fisher matrices, and those of `obs`."""
    of_obs = memory_of_obs(shape, seq_len, element_size=element_size, ridge=ridge)
    return memory_of_fisher(shape, seq_len) + of_obs


CRITERION = Criterion(
    name="obs-fisher",
    title="OBS (Fisher)",
    formula="the rise of ½·tr(M·D), D of the refitted output's change, M of its gradients",
    reference="https://arxiv.org/abs/2312.17244",
    needs="second moments",
    style=Style("#D55E00", "dot", "hexagon-open"),
    passes=lambda shape: 5,
    score_curves=channel_scores,
    curves=CURVES,
    options={"ridge": RIDGE, "tokens": CURVES.tokens},
    memory=memory,
    compensation="least-squares",
)
