"""The scores once more: slow, plain, written from the formulas of the design, not from bipcore.

Every activation is kept, every channel is a turn of a Python loop, sums are in float64. Nothing
here may import bipcore.
"""

import torch
from torch import Tensor

from tests.helpers.reference_blocks import ReferenceBlock
from tests.helpers.reference_blocks import reference_blocks as reference_blocks


def reference_scores(block: ReferenceBlock, criterion: str) -> dict[str, Tensor]:
    """``attention`` (H·h,), ``heads`` (H,), ``kv_groups`` (K,) and ``ffn`` (F,) of a criterion."""
    own, shared, ffn = _RULES[criterion]
    heads, groups = [0.0] * block.heads, [0.0] * block.kv_heads
    attention = []
    for head in range(block.heads):
        for index in range(block.width):
            alone = own(block, block.channel(head, index))
            group = block.group_of(head)
            with_shared = alone + shared(block, block.channel(group, index))
            attention.append(with_shared)
            heads[head] += with_shared
            groups[group] += alone
    for group in range(block.kv_heads):
        for index in range(block.width):
            groups[group] += shared(block, block.channel(group, index))
    channels = [ffn(block, j) for j in range(block.down.shape[1])]
    values = {"attention": attention, "heads": heads, "kv_groups": groups, "ffn": channels}
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def _nothing(block: ReferenceBlock, row: int) -> float:
    return 0.0


def _bip_attention(block: ReferenceBlock, j: int) -> float:
    """mean|X_j| · the column sum of |γ||W_o| + |γ'||W_d||W_u||γ||W_o| (by the d × d product)."""
    column = block.o_gain.abs() * block.o[:, j].abs()  # (d,)
    reached = column.sum()
    if not block.parallel:
        reached = reached + (block.through_up @ column).sum()
    return float(block.inputs["o"][:, j].abs().mean() * reached)


def _bip_gated_attention(block: ReferenceBlock, j: int) -> float:
    """The same through gate and up, and the gain of the norm: |W_d|(|W_u| + |W_g|)diag|γ||W_o|."""
    column = block.o_gain.abs() * block.o[:, j].abs()  # (d,)
    reached = column.sum()
    if not block.parallel:
        column = block.gain.abs() * column
        reached = reached + (block.through_up @ column + block.through_gate @ column).sum()
    return float(block.inputs["o"][:, j].abs().mean() * reached)


def _flap(block: ReferenceBlock, weight: Tensor, j: int, site: str) -> float:
    """The mean squared distance of X_j from its mean, times the squared norm of column j."""
    x = block.inputs[site][:, j]
    return float((x - x.mean()).square().mean() * weight[:, j].square().sum())


def _flap_own(block: ReferenceBlock, j: int) -> float:
    return _flap(block, block.o, j, "o")


def _flap_ffn(block: ReferenceBlock, j: int) -> float:
    return _flap(block, block.down, j, "down")


def _bip_ffn(block: ReferenceBlock, j: int) -> float:
    column = block.down_gain.abs() * block.down[:, j].abs()
    return float(block.inputs["down"][:, j].abs().mean() * column.sum())


def _row_sum(weight: Tensor | None, row: int) -> float:
    return 0.0 if weight is None else float(weight[row].abs().sum())


def _magnitude_own(block: ReferenceBlock, j: int) -> float:
    return _row_sum(block.q, j) + _row_sum(block.o.T, j)


def _magnitude_shared(block: ReferenceBlock, row: int) -> float:
    return _row_sum(block.k, row) + _row_sum(block.v, row)


def _magnitude_ffn(block: ReferenceBlock, j: int) -> float:
    return _row_sum(block.gate, j) + _row_sum(block.up, j) + _row_sum(block.down.T, j)


def _norm_row(block: ReferenceBlock, weight: Tensor | None, row: int, site: str) -> float:
    """Σ_i |W[row, i]| · ‖X_i‖₂ with the norms of the inputs of ``site``."""
    if weight is None:
        return 0.0
    norms = torch.linalg.vector_norm(block.inputs[site], dim=0)
    return float((weight[row].abs() * norms).sum())


def _norm_column(block: ReferenceBlock, weight: Tensor, j: int, site: str) -> float:
    """Σ_i |W[i, j]| · ‖X_j‖₂."""
    return float(weight[:, j].abs().sum() * torch.linalg.vector_norm(block.inputs[site][:, j]))


def _wanda_own(block: ReferenceBlock, j: int) -> float:
    return _norm_row(block, block.q, j, "qkv") + _norm_column(block, block.o, j, "o")


def _wanda_shared(block: ReferenceBlock, row: int) -> float:
    return _norm_row(block, block.k, row, "qkv") + _norm_row(block, block.v, row, "qkv")


def _wanda_ffn(block: ReferenceBlock, j: int) -> float:
    rows = _norm_row(block, block.gate, j, "up") + _norm_row(block, block.up, j, "up")
    return rows + _norm_column(block, block.down, j, "down")


def _wanda_sp_own(block: ReferenceBlock, j: int) -> float:
    return _norm_column(block, block.o, j, "o")


def _wanda_sp_ffn(block: ReferenceBlock, j: int) -> float:
    return _norm_column(block, block.down, j, "down")


_RULES = {
    "llm-bip": (_bip_attention, _nothing, _bip_ffn),
    "llm-bip-gated": (_bip_gated_attention, _nothing, _bip_ffn),
    "flap": (_flap_own, _nothing, _flap_ffn),
    "magnitude": (_magnitude_own, _magnitude_shared, _magnitude_ffn),
    "wanda": (_wanda_own, _wanda_shared, _wanda_ffn),
    "wanda-sp": (_wanda_sp_own, _nothing, _wanda_sp_ffn),
}
