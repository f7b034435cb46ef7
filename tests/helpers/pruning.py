"""Plans for the tiny models, and what a model says: logits and generated tokens."""

from functools import cache

import torch
from torch import Tensor, nn

from bipcore.criteria import Scores, score
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import PruningPlan
from bipcore.pruning.slicing import apply_plan, masked_model
from tests.helpers.pairs import in_turn
from tests.helpers.tiny import FAMILIES, GQA, HEADS_STAY, padded_batch, tiny_model

UNITS = {name: ("query-head", "kv-group") if name in GQA else ("head",) for name in FAMILIES}
"""The units of attention that can go out of each family's blocks."""

UNIT_OF_FAMILY = [(name, unit) for name in FAMILIES for unit in UNITS[name]]
CASES = [(*case, sparsity) for case, sparsity in in_turn(UNIT_OF_FAMILY, (0.3, 0, 0.5), each=1)]


@cache
def scores_of(name: str) -> Scores:
    """Random scores of a tiny model."""
    return score(tiny_model(name), None, "random", seed=3)


def plan_for(name: str, sparsity: float = 0.5, **options) -> PruningPlan:
    """A plan for a tiny model; at the default sparsity every family loses heads and channels."""
    return make_plan(scores_of(name), sparsity=sparsity, **options)


def mixed_plan(name: str, unit: str = "auto") -> PruningPlan:
    """A plan under which the first block stays whole and the others lose channels, and heads where
    these can go."""
    sparsity = 0.3 if name in HEADS_STAY else 0.4
    plan = plan_for(name, sparsity, unit=unit, protect_first=1)
    first, *others = plan.pruned_shape.blocks
    assert all(b.channels < first.channels for b in others)
    assert all((b.heads == first.heads) == (name in HEADS_STAY) for b in others)
    return plan


def pruned_and_masked(name: str, plan: PruningPlan) -> tuple[nn.Module, nn.Module]:
    """The tiny model with ``plan`` applied, and its reference."""
    model = tiny_model(name)
    return apply_plan(model, plan), masked_model(model, plan)


@torch.no_grad()
def logits_of(model: nn.Module) -> Tensor:
    """The logits of every token of a padded batch that is no padding."""
    tokens, mask = padded_batch()
    return model(tokens, attention_mask=mask).logits[mask.bool()]


@torch.no_grad()
def generated_by(model: nn.Module, **options) -> Tensor:
    """Six tokens after each row of a padded batch, with the key/value cache."""
    tokens, mask = padded_batch()
    return model.generate(
        tokens, attention_mask=mask, max_new_tokens=6, do_sample=False, eos_token_id=None, **options
    )


def assert_same_outputs(pruned: nn.Module, masked: nn.Module) -> None:
    """Logits within 1e-4, or where they are larger than 10 within 1e-5 of the largest, since
    rounding differs from processor to processor; and the same tokens generated."""
    expected = logits_of(masked)
    tolerance = max(1e-4, 1e-5 * float(expected.abs().max()))
    torch.testing.assert_close(logits_of(pruned), expected, rtol=0, atol=tolerance)
    assert generated_by(pruned).tolist() == generated_by(masked).tolist()
