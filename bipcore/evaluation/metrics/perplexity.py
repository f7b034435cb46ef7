"""Perplexity."""

import torch
from torch import Tensor, nn

from ...models.finite import check_finite
from ...models.processes import split
from ...models.running import evaluation_mode, exp_of, logits_of, negative_log_likelihood
from ...progress import Progress, silent
from .base import Metric
from .texts import cut_windows


@torch.no_grad()
def perplexity(
    model: nn.Module,
    tokens: Tensor,
    *,
    window: int,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> float:
    """exp of the mean negative log-likelihood of ``tokens`` (n,), in windows of ``window`` tokens.

    The windows do not overlap; each predicts its tokens but the first from those before them
    in the window; the tokens after the last whole window are left out. A tensor (N, T) is read
    as one row. Infinite where the mean is too large for the exponential. Raises InputError when
    there are fewer tokens than one window, the window is longer than the model's positions, or the
    loss is not a finite number. Several processes in step share the windows (see `processes`).
    """
    windows = cut_windows(model, tokens, window)
    part = split(len(windows), batch_size)
    windows = windows[part.own]
    report, message = progress or silent, f"Perplexity, window {window}"
    total, count = 0.0, 0
    with evaluation_mode(model):
        how = {"batch_size": batch_size, "progress": report, "message": message}
        for batch, logits in logits_of(model, windows, **how):
            total += negative_log_likelihood(logits, batch)
            count += batch.shape[0] * (window - 1)
    report(1.0, message)
    sums = torch.tensor([total, count], dtype=torch.float64)
    total, count = part.summed([sums])[0].tolist()
    check_finite(total, "The loss", model)
    return exp_of(total / count)


def _measure(
    model: nn.Module,
    tokens: Tensor,
    *,
    window: int,
    dense: nn.Module | None = None,
    progress: Progress | None = None,
) -> float:
    """`perplexity`, as a metric is called."""
    return perplexity(model, tokens, window=window, progress=progress)


METRIC = Metric(
    name="perplexity",
    title="Perplexity",
    measure=_measure,
    explanation="exp of the mean negative log-likelihood of the text's tokens, in windows that do "
    "not overlap; each window starts anew, so a short one has less to go by and a higher "
    "perplexity.",
)
