"""Where in its depth a model departs: against plain loops over hidden states, and none of none."""

import pytest
import torch
from torch.nn import functional

from bipcore.evaluation.depth import divergence_by_depth
from bipcore.pruning.slicing import apply_plan
from tests.helpers.pruning import plan_for
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

TOKENS = tiny_tokens(2, 12)


@torch.no_grad()
def _lens(model, tokens) -> tuple[list, list]:
    """The hidden states after every block, and the log-probabilities that the rest makes of them,
    by running models that lack the blocks behind."""
    from bipcore.models.adapters import Adapter
    from bipcore.models.running import leave_blocks

    hidden = []
    adapter = Adapter(model)
    handles = [
        block.module.register_forward_hook(lambda m, args, out: hidden.append(out.clone()))
        for block in adapter.blocks
    ]
    logits = model(input_ids=tokens, use_cache=False).logits
    for handle in handles:
        handle.remove()
    said = [leave_blocks(adapter, tokens, one).double().log_softmax(-1) for one in hidden]
    torch.testing.assert_close(said[-1], logits.double().log_softmax(-1), rtol=1e-4, atol=1e-4)
    return hidden, said


@pytest.mark.parametrize("name", FAMILIES)
def test_distances_and_divergences_are_those_of_plain_loops(name):
    dense = tiny_model(name)
    pruned = apply_plan(dense, plan_for(name, 0.4))
    found = divergence_by_depth(pruned, dense, TOKENS)
    (theirs, seen), (own, said) = _lens(dense, TOKENS), _lens(pruned, TOKENS)
    assert found.tokens == TOKENS.numel()
    assert len(found.distance) == len(theirs) == len(found.divergence)
    for index in range(len(theirs)):
        cosine = functional.cosine_similarity(theirs[index].double(), own[index].double(), dim=-1)
        assert found.distance[index] == pytest.approx(float(1 - cosine.mean()), rel=1e-3, abs=1e-5)
        kl = (seen[index].exp() * (seen[index] - said[index])).sum(-1).mean()
        assert found.divergence[index] == pytest.approx(float(kl), rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_of_a_plan_that_removes_nothing_there_is_none(name):
    dense = tiny_model(name)
    found = divergence_by_depth(apply_plan(dense, plan_for(name, 0.0)), dense, TOKENS)
    assert max(found.distance) < 1e-5
    assert max(found.divergence) < 1e-5
