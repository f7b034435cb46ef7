"""The weights of one block, taken apart: what criteria see of a model."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class BlockWeights:
    """The weights of one block in float32, rows = outputs; or other values laid out like them.

    q (H·h, d), k and v (K·h, d), o (d, H·h), gate (F, d) or None, up (F, d), down (d, F).
    ``ffn_reads_attention`` is False where attention and FFN are parallel (GPT-NeoX).
    ``ffn_norm_gain`` (d,): what the norm that the FFN reads multiplies with; Gemma's 1 + weight.
    """

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    gate: Tensor | None
    up: Tensor
    down: Tensor
    heads: int
    kv_heads: int
    head_dim: int
    ffn_reads_attention: bool
    ffn_norm_gain: Tensor
