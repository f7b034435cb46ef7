"""A small recovery: its spec, the tokens it trains on, and a pruned model."""

from torch import nn

from bipcore.pruning.slicing import apply_plan
from bipcore.specs import RecoverySpec
from tests.helpers.pruning import mixed_plan
from tests.helpers.tiny import tiny_model, tiny_tokens

SPEC = RecoverySpec(
    objective="text",
    samples=12,
    seq_len=16,
    rank=4,
    batch_size=4,
    learning_rate=3e-3,
    epochs=2,
    validation=4,
    validate_every=2,
)
TOKENS = tiny_tokens(16, 16)


def pruned(name: str = "llama") -> nn.Module:
    """A tiny model whose blocks have lost different shares."""
    return apply_plan(tiny_model(name), mixed_plan(name))
