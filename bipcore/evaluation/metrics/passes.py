"""A text through a model, once for all the metrics that are measured on it."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from ...errors import listed
from ...models.batches import rows_for
from ...models.finite import check_finite
from ...models.processes import split
from ...models.running import evaluation_mode, logits_of
from ...progress import Progress, silent
from .base import Metric
from .texts import cut_windows


@torch.no_grad()
def measure(
    metrics: Sequence[Metric],
    model: nn.Module,
    tokens: Tensor,
    *,
    window: int,
    dense: nn.Module | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """The figure of each metric by its name, of ``model`` on ``tokens`` (n,) in windows of
    ``window`` tokens (see `texts.cut_windows`), ``batch_size`` of them at a time (by
    default `batches.rows_for`).

    Where one of ``metrics`` needs it, ``dense``, the dense model, is given the same windows; of the
    dense model itself it is that. Several processes in step share the windows (see `processes`).
    Raises InputError where a window cannot be had, or a sum is not a finite number.
    """
    windows = cut_windows(model, tokens, window)
    batch_size = batch_size or rows_for(model, window, logits=True)
    part = split(len(windows), batch_size)
    report, message = progress or silent, f"{_titles(metrics)}, window {window}"
    totals: list[float | Tensor] = [0.0] * len(metrics)
    counts = [0] * len(metrics)
    beside = dense if any(metric.needs_dense for metric in metrics) else None
    how = {"batch_size": batch_size, "progress": report, "message": message}
    with contextlib.closing(logits_beside(model, beside, windows[part.own], **how)) as batches:
        for batch, logits, others in batches:
            for index, metric in enumerate(metrics):
                total, count = metric.sums(logits, batch, others if metric.needs_dense else None)
                totals[index] = totals[index] + total
                counts[index] += count
    report(1.0, message)
    sums = torch.tensor([[float(total) for total in totals], counts], dtype=torch.float64)
    totals, counts = part.summed([sums])[0].tolist()
    for metric, total in zip(metrics, totals, strict=True):
        check_finite(total, f"The {metric.noun}", model)
    means = [total / count for total, count in zip(totals, counts, strict=True)]
    return {metric.name: metric.figure(mean) for metric, mean in zip(metrics, means, strict=True)}


def _titles(metrics: Sequence[Metric]) -> str:
    said = listed(metric.noun for metric in metrics)
    return said[0].upper() + said[1:]


def logits_beside(
    model: nn.Module,
    dense: nn.Module | None,
    windows: Tensor,
    *,
    batch_size: int,
    progress: Progress,
    message: str,
) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
    """Batches (B, T) of windows (N, T) with their logits (B, T, V), and those of ``dense`` if it
    is given."""
    how = {"batch_size": batch_size, "message": message}
    with evaluation_mode(model):
        own = logits_of(model, windows, progress=progress, **how)
        if dense is None or dense is model:
            for batch, logits in own:
                yield batch, logits, None if dense is None else logits
            return
        with evaluation_mode(dense):
            others = logits_of(dense, windows, progress=progress, **how)
            for (batch, logits), (_, beside) in zip(own, others, strict=True):
                yield batch, logits, beside.to(logits.device)
