"""The scores once more: slow, plain, written from the formulas of the design, not from bipcore.

Every activation is kept, every channel is a turn of a Python loop, sums are in float64. Nothing
here may import bipcore.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass
class Paths:
    """Where a family keeps its projections, as seen from one block."""

    block: str
    qkv: tuple[str, ...]
    o: str
    ffn: tuple[str, ...]
    down: str
    interleaved: bool = False


_SEPARATE = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
_LLAMA = Paths(
    "model.layers.{}",
    _SEPARATE,
    "self_attn.o_proj",
    ("mlp.gate_proj", "mlp.up_proj"),
    "mlp.down_proj",
)
PATHS = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text"), _LLAMA),
    "phi3": Paths(
        "model.layers.{}",
        ("self_attn.qkv_proj",),
        "self_attn.o_proj",
        ("mlp.gate_up_proj",),
        "mlp.down_proj",
    ),
    "opt": Paths("model.decoder.layers.{}", _SEPARATE, "self_attn.out_proj", ("fc1",), "fc2"),
    "gpt_neox": Paths(
        "gpt_neox.layers.{}",
        ("attention.query_key_value",),
        "attention.dense",
        ("mlp.dense_h_to_4h",),
        "mlp.dense_4h_to_h",
        interleaved=True,
    ),
}


@dataclass
class ReferenceBlock:
    """One block in float64: its weights taken apart, and all activations (tokens, n)."""

    q: Tensor
    k: Tensor
    v: Tensor
    o: Tensor
    gate: Tensor | None
    up: Tensor
    down: Tensor
    heads: int
    kv_heads: int
    width: int
    parallel: bool
    inputs: dict[str, Tensor]

    def channel(self, head: int, index: int) -> int:
        """The attention output channel of one of the ``width`` channels of a query head."""
        return head * self.width + index

    def group_of(self, head: int) -> int:
        """The key/value head that query head ``head`` reads."""
        return head // (self.heads // self.kv_heads)


def reference_blocks(model: nn.Module, tokens: Tensor) -> list[ReferenceBlock]:
    """Every block of ``model`` with what its projections read when it runs over ``tokens``."""
    config = model.config
    count = config.num_hidden_layers
    stored: dict[tuple[int, str], Tensor] = {}
    handles = []
    for index in range(count):
        for site, module in _watched(model, index).items():
            keep = _keeper(stored, (index, site))
            handles.append(module.register_forward_pre_hook(keep))
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return [
        _block(model, index, {site: stored[index, site] for site in ("qkv", "o", "up", "down")})
        for index in range(count)
    ]


def _module(model: nn.Module, index: int, path: str) -> nn.Linear:
    return model.get_submodule(PATHS[model.config.model_type].block.format(index) + "." + path)


def _watched(model: nn.Module, index: int) -> dict[str, nn.Module]:
    paths = PATHS[model.config.model_type]
    names = {"qkv": paths.qkv[0], "o": paths.o, "up": paths.ffn[-1], "down": paths.down}
    return {site: _module(model, index, path) for site, path in names.items()}


def _keeper(stored: dict, key: tuple[int, str]):
    def keep(module, args) -> None:
        stored[key] = args[0].detach().reshape(-1, args[0].shape[-1]).clone().double()

    return keep


def _block(model: nn.Module, index: int, inputs: dict[str, Tensor]) -> ReferenceBlock:
    paths, config = PATHS[model.config.model_type], model.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads

    def weight(path: str) -> Tensor:
        return _module(model, index, path).weight.detach().double()

    if len(paths.qkv) == 3:
        q, k, v = (weight(path) for path in paths.qkv)
    else:
        q, k, v = _split_qkv(weight(paths.qkv[0]), heads, kv_heads, width, paths.interleaved)
    down = weight(paths.down)
    gate, up = _split_ffn([weight(path) for path in paths.ffn], down.shape[1])
    return ReferenceBlock(
        q=q,
        k=k,
        v=v,
        o=weight(paths.o),
        gate=gate,
        up=up,
        down=down,
        heads=heads,
        kv_heads=kv_heads,
        width=width,
        parallel=getattr(config, "use_parallel_residual", False),
        inputs=inputs,
    )


def _split_qkv(fused: Tensor, heads: int, kv_heads: int, width: int, interleaved: bool):
    """q (H·h, d), k and v (K·h, d) out of one weight."""
    if not interleaved:  # Phi-3: all of q, all of k, all of v
        return fused.split([heads * width, kv_heads * width, kv_heads * width])
    parts: list[list[Tensor]] = [[], [], []]  # GPT-NeoX: q, k, v of head 0, then of head 1, ...
    for head in range(heads):
        for part in range(3):
            start = (3 * head + part) * width
            parts[part].append(fused[start : start + width])
    return [torch.cat(rows) for rows in parts]


def _split_ffn(weights: list[Tensor], channels: int) -> tuple[Tensor | None, Tensor]:
    """gate and up, (F, d) each, out of one weight or two; gate is None where there is none."""
    if len(weights) == 2:
        return weights[0], weights[1]
    if weights[0].shape[0] == 2 * channels:  # Phi-3: all of gate, all of up
        return weights[0][:channels], weights[0][channels:]
    return None, weights[0]


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
    """mean|X_j| · the column sum of |W_o| + |W_d||W_u||W_o| (by the d × d product)."""
    column = block.o[:, j].abs()  # (d,)
    reached = column.sum()
    if not block.parallel:
        through = block.down.abs() @ block.up.abs()  # (d, d)
        reached = reached + (through @ column).sum()
    return float(block.inputs["o"][:, j].abs().mean() * reached)


def _bip_ffn(block: ReferenceBlock, j: int) -> float:
    return float(block.inputs["down"][:, j].abs().mean() * block.down[:, j].abs().sum())


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
    "magnitude": (_magnitude_own, _magnitude_shared, _magnitude_ffn),
    "wanda": (_wanda_own, _wanda_shared, _wanda_ffn),
    "wanda-sp": (_wanda_sp_own, _nothing, _wanda_sp_ffn),
}
