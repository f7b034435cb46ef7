"""What the slow reference sees of a model: weights taken apart, and every activation, kept.

Written from the formulas of the design, not from bipcore, which nothing here may import.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

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
    **dict.fromkeys(("smollm3", "granite", "gemma", "ministral3", "seed_oss"), _LLAMA),
    **dict.fromkeys(("ernie4_5", "hunyuan_v1_dense"), _LLAMA),
    "starcoder2": replace(_LLAMA, ffn=("mlp.c_fc",), down="mlp.c_proj"),
    **dict.fromkeys(("cohere2", "stablelm", "olmo2", "olmo3"), _LLAMA),
    "phi": replace(_LLAMA, o="self_attn.dense", ffn=("mlp.fc1",), down="mlp.fc2"),
    **dict.fromkeys(("glm", "glm4"), replace(_LLAMA, ffn=("mlp.gate_up_proj",))),
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

PARALLEL = ("cohere2", "phi")
"""Those that add attention and FFN, which read the same, to the residual together."""
BARE = ("olmo2", "olmo3")
"""Those whose attention and FFN read the residual as it is."""


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
    factor: float
    gain: Tensor
    o_gain: Tensor
    down_gain: Tensor
    inputs: dict[str, Tensor]

    @cached_property
    def through_up(self) -> Tensor:
        """|γ||W_d||W_u|, the d × d product: how the FFN carries on what its norm puts out, γ the
        gain of the norm behind it."""
        return torch.diag(self.down_gain.abs()) @ self.down.abs() @ self.up.abs()

    @cached_property
    def through_gate(self) -> Tensor:
        """|W_d||W_g|; 0 where there is no gate."""
        if self.gate is None:
            return torch.zeros_like(self.through_up)
        return torch.diag(self.down_gain.abs()) @ self.down.abs() @ self.gate.abs()

    def channel(self, head: int, index: int) -> int:
        """The attention output channel of one of the ``width`` channels of a query head."""
        return head * self.width + index

    def group_of(self, head: int) -> int:
        """The key/value head that query head ``head`` reads."""
        return head // (self.heads // self.kv_heads)


def reference_blocks(
    model: nn.Module, tokens: Tensor, indices: Iterable[int] | None = None
) -> list[ReferenceBlock]:
    """The blocks of ``model`` with these ``indices``, or all of them, with what their projections
    read when it runs over ``tokens``."""
    chosen = range(model.config.num_hidden_layers) if indices is None else tuple(indices)
    stored: dict[tuple[int, str], Tensor] = {}
    handles = []
    for index in chosen:
        for site, module in _watched(model, index).items():
            keep = _keeper(stored, (index, site))
            handles.append(module.register_forward_pre_hook(keep))
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    return [
        reference_block(
            model,
            index,
            inputs={site: stored[index, site] for site in ("qkv", "o", "up", "down")},
            gain=_ffn_gain(model, index, tokens[:1, :4]),
            o_gain=_gain_after(model, index, tokens[:1, :4], "o"),
            down_gain=_gain_after(model, index, tokens[:1, :4], "down"),
        )
        for index in chosen
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


def _ffn_gain(model: nn.Module, index: int, tokens: Tensor) -> Tensor:
    """The gain (d,) of whichever module of the block puts out what its FFN reads, by trying it;
    ones where it reads the residual.

    A vector of 1 and -1 in turn is its own norm, and half the difference of what the module
    makes of it and of its negative is its gain, whatever is added.
    """
    paths, seen = PATHS[model.config.model_type], {}
    block = model.get_submodule(paths.block.format(index))

    def keep(module, args, output) -> None:
        if isinstance(output, Tensor):
            seen[module] = output

    handles = [module.register_forward_hook(keep) for module in block.modules()]
    read: dict[str, Tensor] = {}
    up = _module(model, index, paths.ffn[-1])
    handles.append(up.register_forward_pre_hook(lambda module, args: read.update(x=args[0])))
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    norms = [m for m, x in seen.items() if x.data_ptr() == read["x"].data_ptr()]
    size = model.config.hidden_size
    if model.config.model_type in BARE:
        assert not norms
        return torch.ones(size).double()
    (norm,) = norms
    return _tried(norm, size)


def _gain_after(model: nn.Module, index: int, tokens: Tensor, site: str) -> Tensor:
    """The gain (d,) of the module of the block that reads what the projection puts out, by trying
    it; ones where the residual takes it as it is, or the factor that it takes it by."""
    paths, seen = PATHS[model.config.model_type], {}
    block = model.get_submodule(paths.block.format(index))
    projection = _module(model, index, {"o": paths.o, "down": paths.down}[site])
    put_out: dict[str, Tensor] = {}
    handles = [projection.register_forward_hook(lambda m, args, output: put_out.update(x=output))]
    for module in block.modules():
        if isinstance(getattr(module, "weight", None), Tensor):
            keep = lambda m, args: seen.update({m: args[0]}) if args else None  # noqa: E731
            handles.append(module.register_forward_pre_hook(keep))
    with torch.no_grad():
        model(tokens)
    for handle in handles:
        handle.remove()
    norms = [m for m, x in seen.items() if x.data_ptr() == put_out["x"].data_ptr()]
    size = model.config.hidden_size
    return _tried(norms[0], size) if norms else torch.full((size,), _factor(model)).double()


def _factor(model: nn.Module) -> float:
    """By what the residual takes the outputs of o and down, according to the configuration."""
    return getattr(model.config, "residual_multiplier", 1.0)


def _tried(norm: nn.Module, size: int) -> Tensor:
    """The gain (d,) of a norm, in float64 (see `_ffn_gain`)."""
    signs = torch.ones(size)
    signs[1::2] = -1
    with torch.no_grad():
        return ((norm(signs) - norm(-signs)) / 2 * signs).double()


def reference_block(
    model: nn.Module, index: int, *, read=lambda weight: weight, **known
) -> ReferenceBlock:
    """A block of what ``read`` makes of each weight as the modules hold it, in float64."""
    paths, config = PATHS[model.config.model_type], model.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads

    def weight(path: str) -> Tensor:
        return read(_module(model, index, path).weight).detach().double()

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
        parallel=getattr(config, "use_parallel_residual", config.model_type in PARALLEL),
        factor=_factor(model),
        **{name: torch.ones(0) for name in ("gain", "o_gain", "down_gain")}
        | {"inputs": {}}
        | known,
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
