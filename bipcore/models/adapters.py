"""A live model as a row of blocks, whatever its family calls its modules.

Everything else asks an `Adapter` for a block's weights, for the modules whose inputs are to be
watched, or for the rows and columns that a set of kept heads and channels leaves in each
projection.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ..errors import InputError
from .families import Family, family_of
from .shapes import BlockShape, ModelShape, UnitCost
from .streaming import device_of, present


@dataclass(frozen=True)
class BlockWeights:
    """The weights of one block in float32, rows = outputs; or other values laid out like them.

    q (H·h, d), k and v (K·h, d), o (d, H·h), gate (F, d) or None, up (F, d), down (d, F).
    ``ffn_reads_attention`` is False where attention and FFN are parallel (GPT-NeoX).
    ``ffn_norm_gain`` (d,): what the norm that the FFN reads multiplies with; Gemma's 1 + weight.
    ``o_gain`` and ``down_gain`` (d,): the same of a norm that the outputs of o and of down go
    through before they join the residual (Gemma 2 and 3); ones where there is none.
    ``residual_factor``: what both are multiplied by there (Granite), which the two gains hold too.
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
    o_gain: Tensor
    down_gain: Tensor
    residual_factor: float = 1.0


SITES = ("qkv", "o", "up", "down")
"""The four inputs of a block that statistics are kept of, named for the projection they enter."""


@dataclass(frozen=True)
class Selection:
    """The rows (outputs) and columns (inputs) that stay of one projection; None: all."""

    linear: nn.Linear
    rows: Tensor | None = None
    columns: Tensor | None = None


class _LayerConfig:
    """A configuration with some attributes of its own; the others are those of ``base``.

    Phi-3 splits its fused projection by `config.num_attention_heads` at run time, so a block
    with other widths than its neighbours needs a number of its own, while what is shared
    (the attention implementation, say) keeps following the model's configuration.
    """

    def __init__(self, base, **own):
        self.__dict__.update(own, base=base)

    def __getattr__(self, name):
        if name.startswith("__") or "base" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.base, name)


def _unit_rows(units: Sequence[int], width: int, offset: int = 0) -> Tensor:
    """The rows of ``units``, each ``width`` rows wide, from row ``offset`` on."""
    starts = torch.tensor(list(units), dtype=torch.long) * width + offset
    return (starts[:, None] + torch.arange(width)[None, :]).reshape(-1)


class Block:
    """One decoder block of a live model, seen through its family."""

    def __init__(self, module: nn.Module, family: Family):
        self.module = module
        self.family = family
        self.attention = module.get_submodule(family.attention)
        self.qkv = [module.get_submodule(path) for path in family.qkv]
        self.o = module.get_submodule(family.output)
        self.ffn_in = [module.get_submodule(path) for path in family.ffn_in]
        self.down = module.get_submodule(family.down)
        for linear in self.linears:
            if not isinstance(linear, nn.Linear) or not linear.weight.is_floating_point():
                raise InputError(
                    f"A projection is a {type(linear).__name__}, not a plain linear layer: "
                    "quantised models cannot be sliced; load the model unquantised."
                )
        self.head_dim = getattr(self.attention, "head_dim", None) or self.attention.head_size

    @property
    def shape(self) -> BlockShape:
        """The widths that the weights have now."""
        heads = self.o.in_features // self.head_dim
        if self.family.qkv_layout == "interleaved":
            kv_heads = heads
        elif self.family.qkv_layout == "separate":
            kv_heads = self.qkv[1].out_features // self.head_dim
        else:
            kv_heads = (self.qkv[0].out_features // self.head_dim - heads) // 2
        return BlockShape(heads, kv_heads, self.down.in_features)

    @property
    def sites(self) -> dict[str, nn.Linear]:
        """For each of `SITES`, the projection whose input it is."""
        return dict(zip(SITES, (self.qkv[0], self.o, self.ffn_in[-1], self.down), strict=True))

    def _qkv_rows(self, heads: Sequence[int], kv_heads: Sequence[int]) -> list[Tensor]:
        """The rows of q, k and v in the module or modules that hold them."""
        shape, width = self.shape, self.head_dim
        if self.family.qkv_layout == "interleaved":
            return [
                (_unit_rows(heads, 3 * width).view(-1, 3, width)[:, part].reshape(-1))
                for part in range(3)
            ]
        q_end = kv_end = 0
        if self.family.qkv_layout == "concatenated":
            q_end = shape.heads * width
            kv_end = q_end + shape.kv_heads * width
        return [
            _unit_rows(heads, width),
            _unit_rows(kv_heads, width, q_end),
            _unit_rows(kv_heads, width, kv_end),
        ]

    @property
    def linears(self) -> tuple[nn.Linear, ...]:
        """The projections as the modules hold them: q/k/v, o, gate/up, down; each once."""
        return (*self.qkv, self.o, *self.ffn_in, self.down)

    def weights(self) -> BlockWeights:
        """The block's weights, taken apart where the modules fuse them."""
        with present(self.module):
            return self.split([linear.weight.detach().float() for linear in self.linears])

    def split(self, values: Sequence[Tensor]) -> BlockWeights:
        """Take apart ``values``: for each of `linears` a tensor laid out like its weight."""
        shape, count = self.shape, len(self.qkv)
        qkv, (o, *ffn_in, down) = values[:count], values[count:]
        if count == 1:
            rows = self._qkv_rows(range(shape.heads), range(shape.kv_heads))
            qkv = [qkv[0][index.to(qkv[0].device)] for index in rows]
        if self.family.gated and len(ffn_in) == 1:
            ffn_in = ffn_in[0].chunk(2)
        return BlockWeights(
            *qkv,
            o=o,
            gate=ffn_in[0] if self.family.gated else None,
            up=ffn_in[-1],
            down=down,
            heads=shape.heads,
            kv_heads=shape.kv_heads,
            head_dim=self.head_dim,
            ffn_reads_attention=not self._parallel,
            ffn_norm_gain=self._ffn_norm_gain(),
            **self._output_gains(),
            residual_factor=self._residual_factor,
        )

    @property
    def _parallel(self) -> bool:
        return self.family.parallel or getattr(self.module, "use_parallel_residual", False)

    def _ffn_norm_gain(self) -> Tensor:
        """The gain (d,) of the norm that the FFN reads, in float32; ones where it has none."""
        path = self.family.ffn_norm
        if not getattr(self.module, "do_layer_norm_before", True):
            path = self.family.ffn_norm_if_after
        elif path and getattr(self.module, path) is None:  # a parallel StableLM
            path = self.family.attention_norm
        return self._gain(path)

    @property
    def _residual_factor(self) -> float:
        return float(getattr(self.module, "residual_multiplier", 1.0))

    def _output_gains(self) -> dict[str, Tensor]:
        """What the outputs of o and down are multiplied by, (d,) each, before they join the
        residual, in float32: the gains of the norms there, where there are any, and a factor."""
        names, paths = ("o_gain", "down_gain"), self.family.output_norms or (None, None)
        gains = (self._residual_factor * self._gain(path) for path in paths)
        return dict(zip(names, gains, strict=True))

    def _gain(self, path: str | None) -> Tensor:
        gain = None if path is None else self.module.get_submodule(path).weight
        if gain is None:
            return self.down.weight.new_ones(self.down.out_features, dtype=torch.float32)
        return gain.detach().float() + self.family.norm_offset

    def kv_heads_of(self, heads: Sequence[int]) -> list[int]:
        """The key/value heads that the query heads ``heads`` read."""
        shape = self.shape
        return sorted({head // shape.group for head in heads})

    def selections(self, heads: Sequence[int], channels: Sequence[int]) -> list[Selection]:
        """What stays of each projection when these query heads and channels stay."""
        kept = torch.tensor(list(channels), dtype=torch.long)
        rows = self._qkv_rows(heads, self.kv_heads_of(heads))
        if self.family.qkv_layout == "interleaved":
            rows = [torch.stack([part.view(-1, self.head_dim) for part in rows], 1).reshape(-1)]
        elif len(self.qkv) == 1:
            rows = [torch.cat(rows)]
        selections = [Selection(lin, rows=r) for lin, r in zip(self.qkv, rows, strict=True)]
        selections.append(Selection(self.o, columns=_unit_rows(heads, self.head_dim)))
        fused = self.family.gated and len(self.ffn_in) == 1
        ffn_rows = torch.cat([kept, kept + self.shape.channels]) if fused else kept
        selections += [Selection(linear, rows=ffn_rows) for linear in self.ffn_in]
        selections.append(Selection(self.down, columns=kept))
        return selections

    def sync_attributes(self, config) -> None:
        """Bring what the modules read at run time in line with the widths of the weights."""
        shape = self.shape
        values = {
            "num_key_value_groups": shape.group,
            "num_key_value_heads": shape.kv_heads,
            "num_heads": shape.heads,
            "num_attention_heads": shape.heads,
            "embed_dim": shape.heads * self.head_dim,
        }
        for name, value in values.items():
            if hasattr(self.attention, name):
                setattr(self.attention, name, value)
        if self.family.qkv_layout == "concatenated":
            differs = config.num_attention_heads != shape.heads
            own = _LayerConfig(config, num_attention_heads=shape.heads)
            self.attention.config = own if differs else config
        if self.family.ffn is not None:
            ffn = self.module.get_submodule(self.family.ffn)
            if hasattr(ffn, "intermediate_size"):
                ffn.intermediate_size = shape.channels


class Adapter:
    """A causal language model as a row of `Block`s. Raises InputError if it is unsupported."""

    def __init__(self, model: nn.Module):
        self.model = model
        self.family = family_of(model.config)
        if (field := self.family.norms_of_heads) and getattr(model.config, field):
            raise InputError(
                f"A {self.family.title} that normalises its heads ({field}) is not supported."
            )
        try:
            modules = model.get_submodule(self.family.blocks)
        except AttributeError:
            raise InputError(
                f"A {type(model).__name__} is not a causal language model; load it with its head."
            ) from None
        self.blocks = tuple(Block(module, self.family) for module in modules)

    def run_blocks(self, tokens: Tensor) -> None:
        """One forward pass over tokens (B, T) through all blocks, without the head."""
        self.model.base_model(input_ids=tokens, use_cache=False)

    @property
    def input_device(self) -> torch.device:
        """Where the token ids have to be."""
        return device_of(self.model.get_input_embeddings())

    @property
    def final_gain(self) -> Tensor:
        """The gain (d,) of the norm behind the blocks, in float32; ones where there is none."""
        try:
            gain = self.model.get_submodule(self.family.final_norm).weight
        except AttributeError:  # OPT has none where it normalises after its sublayers
            gain = None
        if gain is None:
            down = self.blocks[0].down
            return torch.ones(down.out_features, device=self.input_device)
        return gain.detach().float() + self.family.norm_offset

    @property
    def shape(self) -> ModelShape:
        """The sizes of the model as its weights have them now."""
        first = self.blocks[0]
        hidden, width = first.down.out_features, first.head_dim
        query, key = first.qkv[0], first.qkv[min(1, len(first.qkv) - 1)]
        gates = 2 if self.family.gated else 1
        head_weights, kv_weights = 2 * width * hidden, 2 * width * hidden
        channel_weights = (gates + 1) * hidden
        head = UnitCost(head_weights + _bias(query, width), head_weights)
        kv_head = UnitCost(kv_weights + 2 * _bias(key, width), kv_weights)
        channel = UnitCost(channel_weights + gates * _bias(first.ffn_in[0], 1), channel_weights)
        shape = ModelShape(
            model_type=self.model.config.model_type,
            hidden=hidden,
            head_dim=width,
            blocks=tuple(block.shape for block in self.blocks),
            head_cost=head,
            kv_head_cost=kv_head,
            channel_cost=channel,
            block_fixed=0,
            other_parameters=0,
            other_weights=self._other_weights(),
            max_positions=getattr(self.model.config, "max_position_embeddings", None),
            heads_stay=self.family.heads_stay,
        )
        return self._with_fixed(shape)

    def _with_fixed(self, shape: ModelShape) -> ModelShape:
        """``shape`` with the parameters that belong to no unit, counted on the model itself.

        What only some blocks have, a compensating bias for instance, counts as outside of them.
        """
        fixed = min(
            sum(p.numel() for p in block.module.parameters()) - shape.parameters_of_block(widths)
            for block, widths in zip(self.blocks, shape.blocks, strict=True)
        )
        shape = replace(shape, block_fixed=fixed)
        total = sum(p.numel() for p in self.model.parameters())
        return replace(shape, other_parameters=total - shape.block_parameters)

    def _other_weights(self) -> int:
        in_blocks = {id(m) for block in self.blocks for m in block.module.modules()}
        return sum(
            module.weight.numel()
            for module in self.model.modules()
            if isinstance(module, nn.Linear) and id(module) not in in_blocks
        )

    def write_widths(self, config) -> None:
        """Write the widths into ``config`` where all blocks share them; otherwise leave it.

        `head_dim` is always written where the family reads it, so that no reader divides d by
        a head count that no longer fits.
        """
        shapes = {block.shape for block in self.blocks}
        if len(shapes) != 1:
            return
        shape = shapes.pop()
        setattr(config, self.family.channels_field, shape.channels)
        if self.family.reloads_heads:
            config.num_attention_heads = shape.heads
            config.num_key_value_heads = shape.kv_heads
            config.head_dim = self.blocks[0].head_dim


def _bias(linear: nn.Linear, per_unit: int) -> int:
    return per_unit if linear.bias is not None else 0
