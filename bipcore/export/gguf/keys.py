"""What a GGUF file says of the model beside its tensors."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from ...models.adapters import Adapter
from .architectures import Architecture
from .rope import rope_keys
from .tensors import layout_of
from .tokens import token_keys

MARK = "bipcore.format"
"""The first key of a file of ours."""

Key = tuple[str, str, Any]
"""Its name, its type and its value."""


def keys_of(
    form: nn.Module, tokenizer, architecture: Architecture, file_type: int
) -> Iterator[Key]:
    """All of them, but for the name of the architecture, which comes first by itself;
    ``file_type`` is that of a kind."""
    yield MARK, "string", "bipcore-gguf/1"
    yield "general.type", "string", "model"
    yield "general.file_type", "uint32", file_type
    yield "general.quantization_version", "uint32", 2
    for name, type, value in (
        *_size_keys(form, architecture),
        *_attention_keys(form, architecture),
        *rope_keys(form.config, Adapter(form).shape),
    ):
        yield f"{architecture.name}.{name}", type, value
    yield from token_keys(tokenizer, form.config)


def _size_keys(form: nn.Module, architecture: Architecture) -> Iterator[Key]:
    shape, layout = Adapter(form).shape, layout_of(form, architecture)
    columns = {
        "attention.head_count": [each.heads for each in layout.widths],
        "attention.head_count_kv": [each.kv_heads for each in layout.widths],
        "feed_forward_length": [each.channels for each in layout.widths],
    }
    yield "block_count", "uint32", len(layout.blocks)
    yield "context_length", "uint32", _context(form.config, architecture)
    yield "embedding_length", "uint32", shape.hidden
    yield "vocab_size", "uint32", form.config.vocab_size
    for name, values in columns.items():
        if architecture.by_block:
            yield name, "array", values
        else:
            yield name, "uint32", values[0]
    for name in ("key_length", "value_length"):
        yield f"attention.{name}", "uint32", shape.head_dim
    yield "attention.layer_norm_rms_epsilon", "float32", form.config.rms_norm_eps


def _attention_keys(form: nn.Module, architecture: Architecture) -> Iterator[Key]:
    """Those about windows and caps, which Gemma has."""
    config = form.config
    if architecture.windows:
        kinds = [config.layer_types[index] for index in layout_of(form, architecture).blocks]
        yield "attention.sliding_window", "uint32", config.sliding_window
        windows = [kind == "sliding_attention" for kind in kinds]
        yield "attention.sliding_window_pattern", "array", windows
    for name in ("attn_logit_softcapping", "final_logit_softcapping"):
        if cap := getattr(config, name, None):
            yield name, "float32", float(cap)


def _context(config, architecture: Architecture) -> int:
    """The tokens that may be read: where llama.cpp has no windows, no more than one holds."""
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if kinds is not None and "sliding_attention" not in kinds:
        window = None
    longest = config.max_position_embeddings
    return longest if architecture.windows or not window else min(longest, window)
