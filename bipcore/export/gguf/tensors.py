"""Where each tensor of a GGUF file lies in a model of `transformers`."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from ...models.adapters import Adapter, Block
from ...models.shapes import BlockShape
from .architectures import ZEROS, Architecture, output_biases, stays
from .rope import rope_factors


@dataclass(frozen=True, eq=False)
class Slot:
    """One tensor of a file, called ``name`` there.

    It is the ``rows`` (first, one behind the last; None: all) of the parameter ``key`` of the
    model, the halves of each of ``heads`` heads woven into each other (0: as they are), ``plus`` a
    number; or a ``constant`` that the model does not have.
    """

    name: str
    key: str = ""
    rows: tuple[int, int] | None = None
    heads: int = 0
    plus: float = 0.0
    constant: Tensor | None = None

    def from_model(self, parameter: Tensor) -> Tensor:
        """What is written of ``parameter``, in its type."""
        part = parameter if self.rows is None else parameter[slice(*self.rows)]
        if self.heads:
            part = _woven(part, self.heads, 2)
        return part + self.plus if self.plus else part

    def into_model(self, tensor: Tensor, parameter: Tensor) -> None:
        """The inverse: set ``parameter`` to what ``tensor`` says of it."""
        part = tensor - self.plus if self.plus else tensor
        if self.heads:
            part = _woven(part, self.heads, part.shape[0] // self.heads // 2)
        target = parameter if self.rows is None else parameter[slice(*self.rows)]
        target.copy_(part)


def _woven(rows: Tensor, heads: int, parts: int) -> Tensor:
    """The rows of each head, which lie in ``parts`` runs: the first of every run, then the second
    of every run, and so on."""
    within = rows.reshape(heads, parts, -1, *rows.shape[1:])
    return within.transpose(1, 2).reshape(rows.shape)


@dataclass(frozen=True)
class Layout:
    """The blocks of a model that a file has, by their numbers, with the widths they have there."""

    blocks: tuple[int, ...]
    widths: tuple[BlockShape, ...]


def layout_of(model: nn.Module, architecture: Architecture) -> Layout:
    """That of ``model``, without the blocks of which nothing is left.

    A gone FFN has 32 zero channels. A gone attention has no head, but one of zeros where it leaves
    a bias, which llama.cpp would not add else, and in the first block, whose heads llama.cpp takes
    the width of a head from.
    """
    shapes, biases = Adapter(model).shape.blocks, output_biases(model)
    left = [index for index in range(len(shapes)) if stays(shapes[index], biases[index])]
    widths = []
    for place, index in enumerate(left):
        shape = shapes[index]
        if not shape.heads and (biases[index][0] or place == 0):
            shape = replace(shape, heads=1, kv_heads=1)
        widths.append(replace(shape, channels=shape.channels or ZEROS))
    return Layout(tuple(left), tuple(widths))


def slots_of(model: nn.Module, architecture: Architecture) -> Iterator[Slot]:
    """All tensors of the file of ``model``, in their order."""
    adapter, family = Adapter(model), Adapter(model).family
    keys = {id(parameter): key for key, parameter in model.named_parameters()}
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    norm = model.get_submodule(family.final_norm).weight
    yield Slot("token_embd.weight", keys[id(embedding)])
    yield Slot("output_norm.weight", keys[id(norm)], plus=family.norm_offset)
    if head is not embedding:
        yield Slot("output.weight", keys[id(head)])
    if (factors := rope_factors(model.config)) is not None:
        yield Slot("rope_freqs.weight", constant=factors)
    layout = layout_of(model, architecture)
    for place, (index, widths) in enumerate(zip(layout.blocks, layout.widths, strict=True)):
        block = _BlockSlots(adapter.blocks[index], widths, architecture, keys)
        for slot in block.all():
            yield replace(slot, name=f"blk.{place}.{slot.name}")


@dataclass(frozen=True, eq=False)
class _BlockSlots:
    """The tensors of one block, which has the ``widths`` in the file."""

    block: Block
    widths: BlockShape
    architecture: Architecture
    keys: dict[int, str]

    def all(self) -> Iterator[Slot]:
        if self.widths.heads:
            yield self._norm("attn_norm", self.block.family.attention_norm)
            yield from self._attention()
        behind = self.block.family.output_norms or (None, None)
        if behind[0]:
            yield self._norm("post_attention_norm", behind[0])
        yield self._norm("ffn_norm", self.block.family.ffn_norm)
        yield from self._ffn()
        if behind[1]:
            yield self._norm("post_ffw_norm", behind[1])

    def _norm(self, name: str, path: str) -> Slot:
        weight = self.block.module.get_submodule(path).weight
        return Slot(f"{name}.weight", self._key(weight), plus=self.block.family.norm_offset)

    def _key(self, parameter: nn.Parameter) -> str:
        return self.keys[id(parameter)]

    def _linear(self, name: str, linear: nn.Linear, **how) -> Iterator[Slot]:
        yield Slot(f"{name}.weight", self._key(linear.weight), **how)
        if linear.bias is not None:
            yield Slot(f"{name}.bias", self._key(linear.bias), **how)

    def _bias(self, name: str, linear: nn.Linear) -> Iterator[Slot]:
        if linear.bias is not None:
            yield Slot(f"{name}.bias", self._key(linear.bias))

    def _zeros(self, name: str, *shape: int) -> Slot:
        return Slot(f"{name}.weight", constant=torch.zeros(shape))

    def _attention(self) -> Iterator[Slot]:
        block, shape = self.block, self.block.shape
        hidden, width = block.o.out_features, block.head_dim
        if not shape.heads:
            for name in ("attn_q", "attn_k", "attn_v"):
                yield self._zeros(name, width, hidden)
            yield self._zeros("attn_output", hidden, width)
            yield from self._bias("attn_output", block.o)
            return
        if self.architecture.fused:
            yield from self._linear("attn_qkv", block.qkv[0])
        else:
            yield from self._separate_heads(shape, width)
        if norms := block.family.head_norms:
            yield self._norm("attn_q_norm", norms[0])
            yield self._norm("attn_k_norm", norms[1])
        yield from self._linear("attn_output", block.o)

    def _separate_heads(self, shape: BlockShape, width: int) -> Iterator[Slot]:
        """Query, key and value, taken apart where the model has them in one."""
        parts, start = [], 0
        for count in (shape.heads, shape.kv_heads, shape.kv_heads):
            parts.append((start, start + count * width))
            start += count * width
        one = len(self.block.qkv) == 1
        modules = self.block.qkv * 3 if one else self.block.qkv
        woven = (shape.heads, shape.kv_heads, 0) if self.architecture.neighbours else (0, 0, 0)
        names = ("attn_q", "attn_k", "attn_v")
        for name, module, rows, heads in zip(names, modules, parts, woven, strict=True):
            yield from self._linear(name, module, rows=rows if one else None, heads=heads)

    def _ffn(self) -> Iterator[Slot]:
        block, channels = self.block, self.block.shape.channels
        hidden = block.down.out_features
        if not channels:
            yield self._zeros("ffn_gate", ZEROS, hidden)
            yield self._zeros("ffn_up", ZEROS, hidden)
            yield self._zeros("ffn_down", hidden, ZEROS)
            yield from self._bias("ffn_down", block.down)
            return
        if self.architecture.fused:
            yield from self._linear("ffn_up", block.ffn_in[0])
        elif len(block.ffn_in) == 1:
            yield from self._linear("ffn_gate", block.ffn_in[0], rows=(0, channels))
            yield from self._linear("ffn_up", block.ffn_in[0], rows=(channels, 2 * channels))
        else:
            yield from self._linear("ffn_gate", block.ffn_in[0])
            yield from self._linear("ffn_up", block.ffn_in[1])
        yield from self._linear("ffn_down", block.down)
