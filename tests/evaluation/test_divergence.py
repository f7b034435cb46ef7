"""KL divergence and agreement against a plain loop over both models' full logits."""

import copy

import pytest
import torch

from bipcore.evaluation.metrics import METRICS, measure
from bipcore.models.adapters import Adapter
from bipcore.models.divergence import kl_divergence
from tests.helpers.passes import counted_passes
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens

WANTED = [METRICS["perplexity"], METRICS["kl"], METRICS["agreement"]]


def changed(model):
    """A copy whose first block has no FFN."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        Adapter(other).blocks[0].down.weight.zero_()
    return other


@torch.no_grad()
def naive(model, dense, tokens, window: int) -> tuple[float, float]:
    """The mean divergence and the share of the same likeliest token, position by position."""
    divergences, same = [], []
    for start in range(0, len(tokens) - window + 1, window):
        row = tokens[start : start + window]
        own, other = (m(input_ids=row[None]).logits[0].double() for m in (model, dense))
        for q, p in zip(own, other, strict=True):
            p, q = p.softmax(0), q.softmax(0)
            divergences.append(sum(a * (a / b).log() for a, b in zip(p, q, strict=True)).item())
            same.append(int(p.argmax()) == int(q.argmax()))
    return sum(divergences) / len(divergences), sum(same) / len(same)


@pytest.mark.parametrize("name", FAMILIES)
def test_both_are_those_of_a_plain_loop(name):
    dense, tokens = tiny_model(name), tiny_tokens(1, 50)[0]
    model = changed(dense)
    found = measure(WANTED, model, tokens, window=12, dense=dense)
    kl, agreement = naive(model, dense, tokens, 12)
    assert kl > 1e-4
    assert found["kl"] == pytest.approx(kl, rel=1e-5, abs=1e-7)
    assert found["agreement"] == pytest.approx(agreement, abs=1e-12)


def test_batches_change_nothing():
    dense, tokens = tiny_model("llama"), tiny_tokens(1, 100)[0]
    model = changed(dense)
    how = {"window": 10, "dense": dense}
    one = measure(WANTED, model, tokens, **how)
    for batch in (3, 10):
        assert measure(WANTED, model, tokens, batch_size=batch, **how) == pytest.approx(
            one, rel=1e-6
        )


def test_a_model_does_not_diverge_from_itself_or_an_equal_one():
    dense, tokens = tiny_model("llama"), tiny_tokens(1, 40)[0]
    for model in (dense, copy.deepcopy(dense)):
        found = measure(WANTED, model, tokens, window=20, dense=dense)
        assert (found["kl"], found["agreement"]) == (0.0, 1.0)


def test_all_metrics_take_one_pass_of_each_model():
    dense, tokens = tiny_model("llama"), tiny_tokens(1, 40)[0]
    model = changed(dense)
    with counted_passes() as passes:
        measure(WANTED, model, tokens, window=20, dense=dense)
    assert len(passes) == 2
    with counted_passes() as passes:
        measure(WANTED, dense, tokens, window=20, dense=dense)
        measure(WANTED[:1], model, tokens, window=20, dense=dense)
    assert len(passes) == 2


def test_pieces_of_positions_are_together_what_the_whole_is():
    own, other = torch.randn(2, 3, 700, 11).unbind()
    p, q = other.double().log_softmax(-1), own.double().log_softmax(-1)
    expected = (p.exp() * (p - q)).sum(-1)
    torch.testing.assert_close(kl_divergence(own, other).double(), expected, rtol=1e-5, atol=1e-6)


def test_half_precision_is_compared_in_float32():
    dense = tiny_model("llama").to(torch.bfloat16)
    logits = dense(input_ids=tiny_tokens(1, 20)).logits.detach()
    other = logits + 0.5
    assert kl_divergence(logits, other).dtype == torch.float32
