"""Wanda, summed over whole channels: the group sum that published "Wanda" rows use."""

from .base import BlockInput, ChannelScores, Criterion, Style, input_norm


def score_block(block: BlockInput) -> ChannelScores:
    """Σ|W_ij|·‖X_j‖₂ over the coupled weights, each with the norm of its own layer's input.

    Key and value rows are shared by the query heads of a KV group.
    """
    weights, statistics, tokens = block.weights, block.statistics, block.tokens
    qkv = input_norm(statistics.qkv, tokens, weights.q)  # (d,)
    up = input_norm(statistics.up, tokens, weights.up)  # (d,)
    o = input_norm(statistics.o, tokens, weights.o)  # (H·h,)
    down = input_norm(statistics.down, tokens, weights.down)  # (F,)
    ffn = weights.up.abs() @ up + weights.down.abs().sum(0) * down
    if weights.gate is not None:
        ffn = ffn + weights.gate.abs() @ up
    return ChannelScores(
        query=weights.q.abs() @ qkv + weights.o.abs().sum(0) * o,
        shared=weights.k.abs() @ qkv + weights.v.abs() @ qkv,
        ffn=ffn,
    )


CRITERION = Criterion(
    name="wanda",
    title="Wanda (group sum)",
    formula="Σ |W_ij| · ‖X_j‖₂ over the channel's coupled weights",
    reference="https://arxiv.org/abs/2306.11695",
    needs="activations",
    style=Style("#E69F00", "solid", "square"),
    score_block=score_block,
)
