"""Importance propagation: the last layer's importance sent back through the weights (NISP)."""

import torch
from torch import Tensor

from ..data.samples import CalibrationSet
from ..models.adapters import Adapter, BlockWeights
from ..progress import Progress
from .base import ChannelScores, Criterion, Style


def score_model(
    adapter: Adapter, calibration: CalibrationSet | None, progress: Progress
) -> list[ChannelScores]:
    """NISP (arXiv 1711.05908, equation 9: s_l = |W_{l+1}|ᵀ s_{l+1}) from the last block back.

    At the last block's output each of the d residual units has importance 1: the final norm and
    the language-model head weigh all alike. Norms, their gains and activations pass importance
    on as it is, as the paper has it for activations.

    The importance grows with every block, 10⁷- to 10⁹-fold on SmolLM2: beyond float32 within five
    blocks, beyond float64 within forty. So it is brought to mean 1 at the output of each. That is
    one factor for a whole block: the order within a block is NISP's, but scores of different
    blocks do not compare as they stand. NISP's own would not serve for that either: each block
    would outweigh all later ones.
    """
    found: list[ChannelScores] = []
    importance = torch.ones(adapter.blocks[-1].down.out_features)  # r, (d,)
    for index, block in enumerate(reversed(adapter.blocks)):
        progress(index / len(adapter.blocks), "Sending importance back")
        scores, importance = send_back(block.weights(), importance)
        found.append(scores)
    return found[::-1]


def send_back(weights: BlockWeights, importance: Tensor) -> tuple[ChannelScores, Tensor]:
    """The scores of one block, and the importance (d,) of its input to mean 1.

    With r the importance (d,) of the block's output:
    FFN channels s^F = |W_d|ᵀ r. The FFN reads through both of its paths:
    r' = r + (|W_u| + |W_g|)ᵀ s^F, |W_g| where there is a gate.
    Attention output channels s^H = |W_o|ᵀ r'. Attention is taken as its value path, X^H of a
    head being a mean of its value head's outputs; these get s^H summed over the query heads that
    share them, s^V (K·h,): r'' = r' + |W_v|ᵀ s^V. Queries and keys carry nothing.
    Where residuals are parallel (GPT-NeoX) s^H = |W_o|ᵀ r, and both add to r. Where what o and
    down put out joins the residual times a factor (Granite), it stands before both of s^F and s^H.
    """
    at_output = importance.to(weights.down)  # r
    ffn = weights.residual_factor * (weights.down.abs().T @ at_output)  # s^F, (F,)
    total = at_output + weights.up.abs().T @ ffn
    if weights.gate is not None:
        total = total + weights.gate.abs().T @ ffn
    read = total if weights.ffn_reads_attention else at_output  # what attention's output counts
    attention = weights.residual_factor * (weights.o.abs().T @ read.to(weights.o))  # s^H, (H·h,)
    group = weights.heads // weights.kv_heads if weights.kv_heads else 1
    by_head = attention.reshape(weights.kv_heads, group, weights.head_dim)
    values = by_head.sum(1).reshape(-1)  # s^V, (K·h,)
    total = total + (weights.v.abs().T @ values).to(total)
    scores = ChannelScores(query=attention, shared=None, ffn=ffn)
    return scores, total / total.mean()


CRITERION = Criterion(
    name="importance-propagation",
    title="Importance propagation (NISP)",
    formula="s = |W|ᵀ r, r from the last block's output back through |W| and the residuals",
    reference="https://arxiv.org/abs/1711.05908",
    needs="weights",
    style=Style("#56B4E9", "solid", "triangle-down"),
    score_model=score_model,
)
