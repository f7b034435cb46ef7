"""What is supported of each family of models, as the tables and functions that decide have it.

Nothing is listed here. A small configuration of the family is made, and of plans for it every
format is asked whether it holds them, as an export asks it.
"""

from dataclasses import dataclass, field
from functools import cache

import transformers as tf

from ..errors import InputError
from ..models.adapters import Adapter
from ..models.families import FAMILIES
from ..models.loading import empty_model
from ..models.shapes import ModelShape
from ..pruning.plan import BlockPlan, PruningPlan
from ..pruning.resolving import resolve_unit
from ..specs import UNITS
from .formats import FORMATS
from .gguf.architectures import choose
from .older_readers import OLDEST

TESTED = "5.23.0"
"""The transformers that the tests of every family run with; that of constraints.txt."""

SAME = ("same widths, fewer heads", "same widths, all heads")
"""The kinds of plans that give every block the same widths."""

_HEADS, _KV_HEADS, _WIDTH, _CHANNELS, _BLOCKS = 8, 4, 8, 96, 3
_SIZES = {
    "vocab_size": 97,
    "hidden_size": _HEADS * _WIDTH,
    "word_embed_proj_dim": _HEADS * _WIDTH,
    "num_hidden_layers": _BLOCKS,
    "num_attention_heads": _HEADS,
    "num_key_value_heads": _KV_HEADS,
    "head_dim": _WIDTH,
    "query_pre_attn_scalar": _WIDTH,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_OPTIONAL = ("word_embed_proj_dim", "num_key_value_heads", "head_dim", "query_pre_attn_scalar")


@dataclass(frozen=True)
class Support:
    """What is supported of one family. ``units``: of attention, those that a plan can remove, next
    to which it removes FFN channels and whole sublayers. ``formats``: by a kind of plan (see
    `sample_plans`) the formats that hold it; ``gguf``: by the same the architecture of llama.cpp,
    empty where there is none. ``transformers``: the versions that its exports are tried with."""

    model_type: str
    title: str
    models: tuple[str, ...]
    units: tuple[str, ...]
    quirk: str
    transformers: tuple[str, ...]
    formats: dict[str, tuple[str, ...]] = field(default_factory=dict)
    gguf: dict[str, str] = field(default_factory=dict)


def every_support() -> list[Support]:
    """That of every family, in their order."""
    return [support_of(model_type) for model_type in FAMILIES]


@cache
def support_of(model_type: str) -> Support:
    """That of the family ``model_type``, one of `FAMILIES`."""
    family, config = FAMILIES[model_type], sample_config(model_type)
    shape = Adapter(empty_model(config)).shape
    plans = sample_plans(shape)
    architectures = {kind: choose(plan, config, None)[0] for kind, plan in plans.items()}
    return Support(
        model_type=model_type,
        title=family.title,
        models=family.models,
        units=units_of(shape),
        quirk=family.quirk,
        transformers=(TESTED, OLDEST) if family.known_before_5 else (TESTED,),
        formats={
            kind: tuple(one.name for one in FORMATS.values() if one.problem(plan, config) is None)
            for kind, plan in plans.items()
        },
        gguf={kind: one.name if one else "" for kind, one in architectures.items()},
    )


def sample_config(model_type: str) -> tf.PreTrainedConfig:
    """A small configuration of the family, whose query heads share key/value heads where they
    can."""
    kind, family = tf.CONFIG_MAPPING[model_type], FAMILIES[model_type]
    has = kind()
    sizes = {name: size for name, size in _SIZES.items() if name not in _OPTIONAL}
    sizes |= {name: _SIZES[name] for name in _OPTIONAL if hasattr(has, name)}
    return kind(**sizes, **{family.channels_field: _CHANNELS})


def sample_plans(shape: ModelShape) -> dict[str, PruningPlan]:
    """A plan of each kind that formats tell apart, for a model of at least three blocks alike; no
    kind with fewer heads where these stay."""
    was, count = shape.blocks[0], len(shape.blocks)
    whole = BlockPlan(tuple(range(was.heads)), tuple(range(was.channels)))
    fewer = tuple(head for head in whole.heads if head % was.group < max(was.group // 2, 1))
    if was.group == 1:
        fewer = whole.heads[: was.heads // 2]
    if shape.heads_stay:
        fewer = whole.heads
    half = whole.channels[: was.channels // 2]
    kinds = {
        SAME[0]: [BlockPlan(fewer, half)] * count,
        SAME[1]: [BlockPlan(whole.heads, half)] * count,
        "whole blocks gone": [BlockPlan((), ()), *[whole] * (count - 1)],
        "other widths by block": [whole, *[BlockPlan(fewer, half)] * (count - 1)],
        "whole sublayers gone": [
            BlockPlan((), whole.channels),
            BlockPlan(whole.heads, ()),
            *[whole] * (count - 2),
        ],
    }
    if fewer == whole.heads:
        del kinds[SAME[0]]
    return {kind: PruningPlan(shape, tuple(blocks)) for kind, blocks in kinds.items()}


def units_of(shape: ModelShape) -> tuple[str, ...]:
    """The units of attention that plans for a model of these sizes can remove; where every query
    head has a key/value head of its own, a KV group is a head."""
    found = []
    for unit in (UNITS.HEAD, UNITS.QUERY_HEAD, UNITS.KV_GROUP):
        if unit == UNITS.KV_GROUP and UNITS.HEAD in found:
            continue
        try:
            if resolve_unit(unit, shape) == unit:
                found.append(unit)
        except InputError:
            continue
    return tuple(found)
