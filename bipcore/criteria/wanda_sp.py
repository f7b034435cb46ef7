"""Wanda-sp: FLAP's structured form of Wanda, over the output projections only."""

from .base import BlockInput, ChannelScores, Criterion, Style, input_norm


def score_block(block: BlockInput) -> ChannelScores:
    """Σ_i|W_ij|·‖X_j‖₂ over the columns j of `o_proj` and `down_proj`."""
    weights, statistics = block.weights, block.statistics
    o, down = weights.o.abs().sum(0), weights.down.abs().sum(0)  # (H·h,), (F,)
    return ChannelScores(
        query=o * input_norm(statistics.o, block.tokens, o),
        shared=None,
        ffn=down * input_norm(statistics.down, block.tokens, down),
    )


CRITERION = Criterion(
    name="wanda-sp",
    title="Wanda-sp",
    formula="Σ_i |W_ij| · ‖X_j‖₂ over the columns of o and down",
    reference="https://arxiv.org/abs/2312.11983",
    needs="activations",
    style=Style("#E69F00", "dot", "square-open"),
    score_block=score_block,
)
