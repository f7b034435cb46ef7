"""A second metric, for tests: how far a model's predictions are from the dense model's."""

import pytest
import torch

from bipcore.evaluation.metrics import METRICS, Metric, cut_windows

NAME = "divergence"


def add_divergence(patch: pytest.MonkeyPatch) -> list[float]:
    """List it among the metrics until the test ends; the list gets every value that is measured."""
    measured: list[float] = []

    @torch.no_grad()
    def measure(model, tokens, *, window, dense=None, progress=None) -> float:
        windows = cut_windows(model, tokens, window)
        ours, theirs = (m(input_ids=windows).logits.log_softmax(-1) for m in (model, dense))
        value = (theirs.exp() * (theirs - ours)).sum(-1).mean().item()
        measured.append(value)
        return value

    facts = {"unit": "nats", "decimals": 4, "needs_dense": True, "explanation": "How far it is."}
    patch.setitem(METRICS, NAME, Metric(NAME, "Divergence", measure, **facts))
    return measured
