"""The modelling file of an export that no stock class can hold, and its two classes.

Such an export carries one small Python file: the stock configuration and the stock model, cut
down to widths of their own in every block. `source_of` writes it for a family; it is the same for
every model of that family, since the widths stand in config.json. So bipcore itself never runs a
file of a folder: it loads such an export with its own copy (`classes_of`).
"""

import importlib.abc
import importlib.util
import sys
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from string import Template

import transformers as tf

from .families import FAMILIES, PRUNED, Family, base_type

_FILE = Template('''"""$title with widths of its own in every block: a model pruned by bipcore.

This is the stock model of transformers. All that is added stands at the end: once the model is
built, and before its weights are read, the linear layers are cut down to the widths that
config.json says. To load it:

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
"""

from types import MethodType

from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import $imports


@strict
class Pruned$config($config):
    """The stock configuration and, block by block, what is left of the block.

    block_widths: [query heads, key/value heads, feed-forward channels], 0 of what is gone.
    output_biases: [of attention, of feed-forward], whether the output projections have a bias
    that the stock model does not have; None where none has.
    """

    model_type = "$model_type"
    block_widths: list[list[int]] | None = None
    output_biases: list[list[bool]] | None = None$validate


def cut(linear, rows=None, columns=None, bias=False):
    """Keep the first outputs (rows) and inputs (columns) of a linear layer, or add a bias."""
    linear.weight = nn.Parameter(linear.weight.detach()[:rows, :columns].clone())
    linear.out_features, linear.in_features = linear.weight.shape
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[:rows].clone())
    elif bias:
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))


def attend_nothing(self, hidden_states, **inputs):
    """The forward of an attention without heads: the bias of its output projection is left.

    The length of the cache is read off the first blocks, whether they attend or not; so this one
    keeps its place there, with one zero a token.
    """
    for cache in inputs.values():
        if isinstance(cache, Cache):
            counted = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            cache.update(counted, counted, self.layer_idx)
    return self.$output(self.$query(hidden_states)), None  # both are 0 wide$extra


class Pruned$model($model):
    """The stock model, cut down to the widths of its configuration."""

    config_class = Pruned$config
    config: Pruned$config

    def __init__(self, config):
        super().__init__(config)
        blocks = self.$blocks
        biases = config.output_biases or [[False, False]] * len(blocks)
        for block, widths, added in zip(blocks, config.block_widths, biases, strict=True):
            heads, $kv_heads, channels = widths
            attention = block.$attention
            width = attention.$output.in_features // config.num_attention_heads  # of one head
$cuts
            if heads == 0:
                attention.forward = MethodType(attend_nothing, attention)
''')

_VALIDATE = '''

    def validate_architecture(self):
        """Pruned, the number of heads need not divide the hidden size."""'''

_BLOCK_CONFIG = '''


class BlockConfig:
    """The configuration of the model, but with the number of heads of one block."""

    def __init__(self, config, heads):
        self.__dict__.update(config=config, num_attention_heads=heads)

    def __getattr__(self, name):
        if name.startswith("__") or "config" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.config, name)'''

_ATTRIBUTES = {
    "num_key_value_groups": "heads // max(kv_heads, 1)",
    "num_key_value_heads": "kv_heads",
    "num_heads": "heads",
}
_QKV_ROWS = {
    "separate": ("heads * width", "kv_heads * width", "kv_heads * width"),
    "concatenated": ("(heads + 2 * kv_heads) * width",),
    "interleaved": ("3 * heads * width",),
}


@dataclass(frozen=True)
class Classes:
    """The two classes of a modelling file."""

    config: type[tf.PreTrainedConfig]
    model: type[tf.PreTrainedModel]


def is_pruned_type(model_type: object) -> bool:
    """Whether a `model_type` is one that only a modelling file of ours knows."""
    known = isinstance(model_type, str) and model_type.startswith(PRUNED)
    return known and base_type(model_type) in FAMILIES


def file_name(model_type: str) -> str:
    """What the modelling file for models of ``model_type`` is called."""
    return f"modeling_{PRUNED}{base_type(model_type)}.py"


def source_of(model_type: str) -> str:
    """The modelling file for models of ``model_type``, the stock one or that of the file itself."""
    base = base_type(model_type)
    family = FAMILIES[base]
    inner = f"{family.attention}."
    names = _stock_names(base)
    return _FILE.substitute(
        title=family.title,
        config=names[0],
        model=names[1],
        imports=", ".join(sorted(("Cache", *names))),
        model_type=f"{PRUNED}{base}",
        validate=_VALIDATE if family.heads_divide_hidden else "",
        extra=_BLOCK_CONFIG if family.qkv_layout == "concatenated" else "",
        kv_heads="_" if family.qkv_layout == "interleaved" else "kv_heads",
        query=family.qkv[0].removeprefix(inner),
        output=family.output.removeprefix(inner),
        attention=family.attention,
        blocks=family.blocks,
        cuts="\n".join(f"            {line}" for line in _cuts(family)),
    )


def _stock_names(base: str) -> tuple[str, str]:
    """The names of the stock configuration and of the stock causal language model."""
    config = tf.CONFIG_MAPPING[base]
    return config.__name__, tf.MODEL_FOR_CAUSAL_LM_MAPPING[config].__name__


def _cuts(family: Family) -> list[str]:
    """The statements that bring one block to its widths."""
    fused = family.gated and len(family.ffn_in) == 1
    channels = "2 * channels" if fused else "channels"
    lines = [
        f"cut(block.{path}, rows={rows})"
        for path, rows in zip(family.qkv, _QKV_ROWS[family.qkv_layout], strict=True)
    ]
    lines.append(f"cut(block.{family.output}, columns=heads * width, bias=added[0])")
    lines += [f"cut(block.{path}, rows={channels})" for path in family.ffn_in]
    lines.append(f"cut(block.{family.down}, columns=channels, bias=added[1])")
    lines += [f"attention.{name} = {_ATTRIBUTES[name]}" for name in family.width_attributes]
    if family.qkv_layout == "concatenated":
        lines.append("attention.config = BlockConfig(config, heads)")
    return lines


def classes_of(model_type: str) -> Classes:
    """The classes for models of ``model_type``, from bipcore's own copy of the modelling file."""
    return classes_in(source_of(model_type))


@cache
def classes_in(source: str) -> Classes:
    """The classes that ``source``, a modelling file of ours, defines. It is run, once."""
    name = f"bipcore_modeling_{sha256(source.encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_loader(name, _Text(source))
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    found = [value for value in vars(module).values() if isinstance(value, type)]
    own = [value for value in found if value.__module__ == name]
    (config,) = (each for each in own if issubclass(each, tf.PreTrainedConfig))
    (model,) = (each for each in own if issubclass(each, tf.PreTrainedModel))
    return Classes(config, model)


class _Text(importlib.abc.ExecutionLoader):
    """Imports a module from its text. `transformers` looks into the source of a model's module."""

    def __init__(self, source: str) -> None:
        self.source = source

    def get_source(self, fullname: str) -> str:
        return self.source

    def get_filename(self, fullname: str) -> str:
        return f"{fullname}.py"  # there is none, but <...> is not looked up
