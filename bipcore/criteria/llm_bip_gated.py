"""LLM-BIP with the FFN's gate path and the gain of its norm in the propagated term.

A variant of arXiv 2412.06419 (equations 8 and 9), derived in `propagated_weight`.
"""

from torch import Tensor

from ..models.adapters import BlockWeights
from .base import BlockInput, ChannelScores, Criterion, Style
from .llm_bip import reach, score_propagated


def propagated_weight(weights: BlockWeights) -> Tensor:
    """p_i = |γ_i| · Σ_j (|W_u[j,i]| + |W_g[j,i]|)·c_j with c_j the `llm_bip.reach`, shape (d,).

    The FFN reads x̂ = γ ⊙ x/rms(x) and hands on Σ_j W_d[k,j]·act(g_j)·u_j with g = W_g x̂ and
    u = W_u x̂. A change δ_i of the attention's output changes u_j by W_u[j,i]·γ_i·δ_i/rms and g_j
    by W_g[j,i]·γ_i·δ_i/rms, so the hidden unit j by at most
    (|act(g_j)|·|W_u[j,i]| + |u_j|·|act'(g_j)|·|W_g[j,i]|)·|γ_i|·|δ_i|/rms: a path through up, and
    one through the gate. γ is the gain of the norm that the FFN reads.

    Left out, as the paper leaves out the activation: |act(g_j)| and |u_j|·|act'(g_j)|, taken
    as 1, since the statistics know only the product act(g_j)·u_j; the change of rms itself; and
    1/rms(x), without which p is not in the unit of the 1 in (1 + p_i). The statistics are of the
    norm's output, which does not tell rms. It is one factor for all channels of a block, and p is
    far above 1 (thousands), so their order does not depend on it, within a block.

    On SmolLM2, one query head of each KV group to go: p as the paper has it changes no choice
    against p = 0, nor does the gate; the gain changes 2 of 90.

    Without a gate (OPT) only the path through up; 0 where residuals are parallel (GPT-NeoX).
    """
    if not weights.ffn_reads_attention:
        return weights.down.new_zeros(len(weights.down))
    at_output = reach(weights)  # c, (F,)
    through = weights.up.abs().T @ at_output  # (d,)
    if weights.gate is not None:
        through = through + weights.gate.abs().T @ at_output
    return weights.ffn_norm_gain.abs().to(through) * through


def score_block(block: BlockInput) -> ChannelScores:
    """The scores of LLM-BIP with this module's p: FFN channels score as in `llm-bip`."""
    return score_propagated(block, propagated_weight(block.weights))


CRITERION = Criterion(
    name="llm-bip-gated",
    title="LLM-BIP, gate and norm gain",
    formula="LLM-BIP with p_i = |γ_i| · Σ_j (|W_u[j,i]| + |W_g[j,i]|) · Σ_k |W_d[k,j]|",
    reference="https://arxiv.org/abs/2412.06419",
    needs="activations",
    style=Style("#0072B2", "dot", "circle-open"),
    score_block=score_block,
)
