"""Perplexity."""

from torch import Tensor, nn

from ...models.running import exp_of, negative_log_likelihood
from ...progress import Progress
from .base import Metric
from .passes import measure


def _sums(logits: Tensor, tokens: Tensor, dense: Tensor | None) -> tuple[Tensor, int]:
    """The negative log-likelihoods of all tokens but the first of each row of tokens (B, T)."""
    rows, length = tokens.shape
    return negative_log_likelihood(logits, tokens), rows * (length - 1)


METRIC = Metric(
    name="perplexity",
    title="Perplexity",
    sums=_sums,
    figure=exp_of,
    explanation="exp of the mean negative log-likelihood of the text's tokens, in windows that do "
    "not overlap; each window starts anew, so a short one has less to go by and a higher "
    "perplexity.",
)


def perplexity(
    model: nn.Module,
    tokens: Tensor,
    *,
    window: int,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> float:
    """exp of the mean negative log-likelihood of ``tokens`` (n,), in windows of ``window`` tokens.

    The windows do not overlap; each predicts its tokens but the first from those before them
    in the window; the tokens after the last whole window are left out. A tensor (N, T) is read
    as one row. Infinite where the mean is too large for the exponential. Raises InputError when
    there are fewer tokens than one window, the window is longer than the model's positions, or the
    loss is not a finite number. ``batch_size`` windows are run at a time, by default as many as
    there is room for (`batches.rows_for`). Several processes in step share them (see `processes`).
    """
    how = {"window": window, "batch_size": batch_size, "progress": progress}
    return measure([METRIC], model, tokens, **how)[METRIC.name]
