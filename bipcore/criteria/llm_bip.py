"""LLM-BIP: block-wise forward importance propagation (arXiv 2412.06419, equations 8 and 9).

Where a norm with the gain γ stands between a sublayer and the residual (Gemma 2 and 3), a change
of the sublayer's output i reaches the residual times γ_i: the sums over i run over |γ_i||W[i,j]|.
"""

from torch import Tensor

from ..models.adapters import BlockWeights
from .base import BlockInput, ChannelScores, Criterion, Style


def propagated_weight(weights: BlockWeights) -> Tensor:
    """p = |W_u|ᵀ (Σ_i |γ_i||W_d[i,:]|), shape (d,): how far hidden units reach through the FFN.

    0 where the FFN does not read the attention's output (parallel residuals). Row sums of
    |W_u|ᵀ|W_d|ᵀ by two matrix-vector products, never the d × d product.
    """
    if not weights.ffn_reads_attention:
        return weights.down.new_zeros(len(weights.down))
    return weights.up.abs().T @ reach(weights)


def reach(weights: BlockWeights) -> Tensor:
    """Σ_i |γ_i||W_d[i,:]|, shape (F,): how far each FFN channel reaches into the residual."""
    return weights.down.abs().T @ weights.down_gain.abs().to(weights.down)


def score_block(block: BlockInput) -> ChannelScores:
    """s^F_j = mean_t|X^F_tj| · Σ_i|γ_i||W_d[i,j]| and
    s^H_j = mean_t|X^H_tj| · Σ_i|γ_i||W_o[i,j]|·(1 + p_i), each with its own γ.

    X^F is the product that enters `down_proj` (T × F), X^H the input of `o_proj` (T × H·h).
    """
    return score_propagated(block, propagated_weight(block.weights))


def score_propagated(block: BlockInput, propagated: Tensor) -> ChannelScores:
    """The same with p given: ``propagated`` (d,)."""
    weights, statistics = block.weights, block.statistics
    through = weights.o_gain.abs().to(weights.o) * (1 + propagated).to(weights.o)  # (d,)
    attention = weights.o.abs().T @ through  # (H·h,)
    ffn = reach(weights)  # (F,)
    return ChannelScores(
        query=statistics.o.mean_abs.to(attention) * attention,
        shared=None,
        ffn=statistics.down.mean_abs.to(ffn) * ffn,
    )


CRITERION = Criterion(
    name="llm-bip",
    title="LLM-BIP",
    formula="mean|X_j| · Σ_i |W_ij|; attention carried on through the FFN: Σ_i |W_o[i,j]|·(1+p_i)",
    reference="https://arxiv.org/abs/2412.06419",
    needs="activations",
    style=Style("#0072B2", "solid", "circle"),
    score_block=score_block,
)
