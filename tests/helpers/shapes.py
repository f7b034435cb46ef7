"""Model shapes and random scores for tests of plans, without a model."""

import torch

from bipcore.criteria import BlockScores, Scores
from bipcore.models.shapes import BlockShape, ModelShape, UnitCost


def model_shape(
    *, blocks: int, heads: int, kv_heads: int, width: int, hidden: int, channels: int
) -> ModelShape:
    """A LLaMA-like shape: gated FFN, no biases, two norms a block."""
    head = UnitCost(2 * width * hidden, 2 * width * hidden)
    channel = UnitCost(3 * hidden, 3 * hidden)
    return ModelShape(
        model_type="llama",
        hidden=hidden,
        head_dim=width,
        blocks=(BlockShape(heads, kv_heads, channels),) * blocks,
        head_cost=head,
        kv_head_cost=head,
        channel_cost=channel,
        block_fixed=2 * hidden,
        other_parameters=49152 * hidden + hidden,
        other_weights=49152 * hidden,
    )


SMOLLM2 = model_shape(blocks=30, heads=9, kv_heads=3, width=64, hidden=576, channels=1536)
LLAMA_7B = model_shape(blocks=32, heads=32, kv_heads=32, width=128, hidden=4096, channels=11008)
SMALL_MHA = model_shape(blocks=6, heads=8, kv_heads=8, width=8, hidden=64, channels=96)
SMALL_GQA = model_shape(blocks=6, heads=8, kv_heads=2, width=8, hidden=64, channels=96)


def random_scores(shape: ModelShape, *, seed: int = 0) -> Scores:
    """Scores drawn by a seeded generator for every channel of ``shape``; nothing is shared."""
    generator = torch.Generator().manual_seed(seed)
    blocks = []
    for was in shape.blocks:
        attention = torch.rand(was.heads * shape.head_dim, generator=generator)
        heads = attention.view(was.heads, shape.head_dim).sum(1)
        kv_groups = heads.view(was.kv_heads, was.group).sum(1)
        ffn = torch.rand(was.channels, generator=generator)
        blocks.append(BlockScores(attention, heads, kv_groups, ffn))
    return Scores(tuple(blocks), "random", {"seed": seed}, shape)
