"""KL divergence, watched: a metric beside perplexity, for tests."""

from dataclasses import replace

import pytest

from bipcore.evaluation.metrics import METRICS

NAME = "kl"


def watch_divergence(patch: pytest.MonkeyPatch) -> list[float]:
    """The list gets every KL divergence that is measured until the test ends."""
    measured: list[float] = []

    def keep(value: float) -> float:
        measured.append(value)
        return value

    patch.setitem(METRICS, NAME, replace(METRICS[NAME], figure=keep))
    return measured
