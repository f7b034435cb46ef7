"""The rotary embedding as llama.cpp is told of it."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from ...models.shapes import ModelShape
from ..older_readers import ropes_of

_KINDS = ("default", "linear", "yarn", "llama3")


def rope_problem(config) -> str | None:
    """Why the rotary embedding of a configuration cannot be written, in a sentence."""
    rope, local = ropes_of(config.to_dict())
    kind = rope.get("rope_type", "default")
    if kind not in _KINDS:
        return (
            f"Rotary embeddings of the kind {kind} are not written to GGUF files; there are "
            f"{', '.join(_KINDS)}."
        )
    if kind == "yarn" and rope.get("truncate") is False:
        return "llama.cpp rounds the range of yarn's correction, and this model does not."
    if kind in ("yarn", "llama3") and local:
        return f"llama.cpp does not scale the blocks of a Gemma 3 by {kind}."
    if local and local.get("rope_type", "default") != "default":
        return "llama.cpp does not scale the rotary embedding of blocks with a window."
    return None


def turned_share(config) -> float:
    """The share of each head that the rotary embedding turns."""
    share = ropes_of(config.to_dict())[0].get("partial_rotary_factor")
    return 1.0 if share is None else share


def rope_keys(config, shape: ModelShape) -> Iterator[tuple[str, str, object]]:
    """The keys about it, without the architecture: name, type and value."""
    rope, local = ropes_of(config.to_dict())
    kind = rope.get("rope_type", "default")
    yield "rope.dimension_count", "uint32", int(shape.head_dim * turned_share(config))
    yield "rope.freq_base", "float32", float(rope["rope_theta"])
    if local:
        yield "rope.freq_base_swa", "float32", float(local["rope_theta"])
    if kind == "linear":
        yield "rope.scaling.type", "string", "linear"
        yield "rope.scaling.factor", "float32", float(rope["factor"])
    if kind == "yarn":
        yield from _yarn_keys(config, rope)


def _yarn_keys(config, rope) -> Iterator[tuple[str, str, object]]:
    """Those of yarn. llama.cpp multiplies cos and sin by 0.1·ln(factor) + 1 and by what it is
    told."""
    original = rope["original_max_position_embeddings"]
    factor = float(rope.get("factor") or config.max_position_embeddings / original)
    _, scale = ROPE_INIT_FUNCTIONS["yarn"](config, torch.device("cpu"))
    own = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    yield "rope.scaling.type", "string", "yarn"
    yield "rope.scaling.factor", "float32", factor
    yield "rope.scaling.original_context_length", "uint32", int(original)
    yield "rope.scaling.attn_factor", "float32", scale / own
    for name in ("beta_fast", "beta_slow"):
        if rope.get(name):
            yield f"rope.scaling.yarn_{name}", "float32", float(rope[name])


def rope_factors(config) -> Tensor | None:
    """What llama.cpp divides each frequency by (llama3); None where that is 1 or in the keys."""
    rope, _ = ropes_of(config.to_dict())
    if rope.get("rope_type") != "llama3":
        return None
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    steps = torch.arange(len(scaled), dtype=torch.float64) / len(scaled)
    return (rope["rope_theta"] ** -steps / scaled.double()).float()
