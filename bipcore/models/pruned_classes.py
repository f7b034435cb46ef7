"""The classes of an export that no stock class can hold: where bipcore has them, and their layout.

Such an export carries `modeling_pruned.py`, and transformers runs that file. bipcore never runs a
file of a folder: it is the same file for every such model, since what differs stands in
config.json, so it has its own.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import transformers as tf

from .families import FAMILIES, PRUNED, Family, base_type
from .shapes import BlockShape

MODELLING_FILE = Path(__file__).with_name("modeling_pruned.py")
"""The file that goes along with such an export, as it stands."""

_ROWS = {
    "separate": (["heads"], ["kv_heads"], ["kv_heads"]),
    "concatenated": (["heads", "kv_heads", "kv_heads"],),
    "interleaved": (["heads", "heads", "heads"],),
}
"""By the layout of query, key and value: what the rows of the module or modules belong to."""


@dataclass(frozen=True)
class Classes:
    """The classes of the modelling file for one family; ``base``: the model without its head."""

    config: type[tf.PreTrainedConfig]
    model: type[tf.PreTrainedModel]
    base: type[tf.PreTrainedModel]


def is_pruned_type(model_type: object) -> bool:
    """Whether a `model_type` is one that only our modelling file knows."""
    known = isinstance(model_type, str) and model_type.startswith(PRUNED)
    return known and base_type(model_type) in FAMILIES


def classes_of(model_type: str) -> Classes:
    """The classes for models of ``model_type``, the stock one or that of the modelling file."""
    from . import modeling_pruned  # slow: it imports the stock models of all families

    config = tf.CONFIG_MAPPING[base_type(model_type)]
    stock = (config, tf.MODEL_FOR_CAUSAL_LM_MAPPING[config], tf.MODEL_MAPPING[config])
    return Classes(*(getattr(modeling_pruned, f"Pruned{each.__name__}") for each in stock))


def layout_of(model_type: str) -> dict[str, Any]:
    """What the modelling file has to know of the blocks of such models, for config.json."""
    family = FAMILIES[base_type(model_type)]
    inner = f"{family.attention}."
    fused = family.gated and len(family.ffn_in) == 1
    rows = dict(zip(family.qkv, _ROWS[family.qkv_layout], strict=True))
    rows |= dict.fromkeys(family.ffn_in, ["channels"] * (2 if fused else 1))
    return {
        "widths": list(_width_fields(family)),
        "blocks": family.blocks,
        "attention": family.attention,
        "query": family.qkv[0].removeprefix(inner),
        "output": family.output.removeprefix(inner),
        "rows": rows,
        "down": family.down,
        "heads_in_config": family.qkv_layout == "concatenated",
    }


def block_configs(model_type: str, shapes: Iterable[BlockShape]) -> list[dict[str, Any]]:
    """What is left of each block, in the fields that say it of a whole model, for config.json."""
    heads, kv_heads, channels = _width_fields(FAMILIES[base_type(model_type)])
    return [
        ({heads: shape.heads, kv_heads: shape.kv_heads} if shape.heads else {})
        | ({channels: shape.channels} if shape.channels else {})
        | ({"skip": gone} if (gone := _gone(shape)) else {})
        for shape in shapes
    ]


def _width_fields(family: Family) -> tuple[str, str, str]:
    return "num_attention_heads", "num_key_value_heads", family.channels_field


def _gone(shape: BlockShape) -> list[str]:
    """The sublayers of a block of which nothing is left."""
    widths = {"attention": shape.heads, "mlp": shape.channels}
    return [name for name, width in widths.items() if not width]


def read_pruned_config(folder: Path, model_type: str) -> tf.PreTrainedConfig:
    """The configuration in ``folder``, of the pruned type ``model_type``.

    Its layout is the one known here, and widths may be said as earlier exports do, in
    "block_widths": their own file, which is not run, knows how to read that.
    """
    config = classes_of(model_type).config.from_pretrained(folder)
    config.block_layout = layout_of(model_type)
    if hasattr(config, "block_widths"):
        shapes = [BlockShape(*widths) for widths in config.block_widths]
        config.block_configs = block_configs(model_type, shapes)
        del config.block_widths
    return config
