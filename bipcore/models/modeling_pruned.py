"""Stock models of transformers, pruned by bipcore: every block has widths of its own.

Such a model is a folder with this file in it, and is loaded by

    AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)

which runs this file, in transformers 4.57 or later; AutoModel loads it without its head. The
classes at its end are those of transformers with one thing added: once the stock model is built,
and before its weights are read, `cut_block` cuts the linear layers of each block down to the widths
that config.json says. Nothing here reads or writes a file, or asks the network. What config.json
says beside the stock fields, which stay what they were before blocks differed:

block_configs: for each block the stock fields of its own widths (num_attention_heads,
    num_key_value_heads, and intermediate_size or what the stock class calls it), and in "skip"
    which of "attention" and "mlp" are gone.
output_biases: for each block [of attention, of feed-forward], whether the output projection has a
    bias that the stock model does not have; None where none has.
block_layout: where the blocks keep their linear layers. The three fields of the "widths", and the
    path of the list of "blocks"; in a block the paths of the "attention", of the "down"
    projection, and of each layer that is cut by "rows", with what its rows belong to; in the
    attention the names of its "query" and "output" projections. "heads_in_config": whether it
    looks up there how many heads it has.
"""

from dataclasses import is_dataclass
from functools import partial
from typing import Any

import transformers
from huggingface_hub.dataclasses import strict
from torch import nn


def cut(linear, rows=None, columns=None, bias=False):
    """Keep the first outputs (rows) and inputs (columns) of a linear layer, or add a bias."""
    linear.weight = nn.Parameter(linear.weight.detach()[:rows, :columns].clone())
    linear.out_features, linear.in_features = linear.weight.shape
    if linear.bias is not None:
        linear.bias = nn.Parameter(linear.bias.detach()[:rows].clone())
    elif bias:
        linear.bias = nn.Parameter(linear.weight.new_zeros(linear.out_features))


def widths_of(own, fields):
    """Query heads, key/value heads and feed-forward channels, 0 of what is gone, that ``own``, one
    of the block_configs, says in these three ``fields``."""
    gone = own.get("skip", ())
    sublayers = ("attention", "attention", "mlp")
    return [0 if of in gone else own[name] for of, name in zip(sublayers, fields, strict=True)]


def cut_block(block, own, biases, config):
    """Cut one block down to the widths of ``own``, its one of the block_configs.

    ``biases``: whether the output projections of attention and feed-forward get one.
    """
    layout = config.block_layout
    heads, kv_heads, channels = widths_of(own, layout["widths"])
    attention = block.get_submodule(layout["attention"])
    output = attention.get_submodule(layout["output"])
    width = output.in_features // config.num_attention_heads  # of one head
    sizes = {"heads": heads * width, "kv_heads": kv_heads * width, "channels": channels}
    for path, parts in layout["rows"].items():
        cut(block.get_submodule(path), rows=sum(sizes[part] for part in parts))
    cut(output, columns=heads * width, bias=biases[0])
    cut(block.get_submodule(layout["down"]), columns=channels, bias=biases[1])
    numbers = {
        "num_heads": heads,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "num_key_value_groups": heads // max(kv_heads, 1),
        "hidden_size": heads * width,  # of what the heads give, in StableLM before transformers 5
    }
    for name, value in numbers.items():
        if hasattr(attention, name):
            setattr(attention, name, value)
    if layout["heads_in_config"]:
        attention.config = BlockConfig(config, heads)
    if heads == 0:
        attention.forward = partial(attend_nothing, attention, layout["query"], layout["output"])


def attend_nothing(attention, query, output, hidden_states, **inputs):
    """The forward of an attention without heads: the bias of its output projection is left.

    The length of the cache is read off the first blocks, whether they attend or not; so this one
    keeps its place there, with one zero a token.
    """
    for cache in inputs.values():
        if isinstance(cache, transformers.Cache):
            counted = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            cache.update(counted, counted, attention.layer_idx)
    nothing = getattr(attention, query)(hidden_states)  # 0 wide
    return getattr(attention, output)(nothing), None


class BlockConfig:
    """The configuration of the model, but with the number of heads of one block."""

    def __init__(self, config, heads):
        self.__dict__.update(config=config, num_attention_heads=heads)

    def __getattr__(self, name):
        if name.startswith("__") or "config" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.config, name)


class OwnRules:
    """The checks of a stock configuration that do not hold of a pruned model."""

    def validate_architecture(self):
        """The number of heads need not divide the hidden size."""

    def validate_rope(self):
        """Nor does it say how wide a head is."""

    _rope_scaling_validation = validate_rope  # before transformers 5


class Cut:
    """A stock model, cut down to the widths of its configuration."""

    def __init__(self, config):
        super().__init__(config)
        if "embed_out" in self._modules:  # GPT-NeoX calls its head so before transformers 5
            self.lm_head = self._modules.pop("embed_out")
        path = config.block_layout["blocks"].removeprefix(f"{self.base_model_prefix}.")
        blocks = self.base_model.get_submodule(path)
        biases = config.output_biases or [[False, False]] * len(blocks)
        for block, own, added in zip(blocks, config.block_configs, biases, strict=True):
            cut_block(block, own, added, config)

    @property
    def embed_out(self):
        """The head, where the stock model calls it so."""
        return self.lm_head


def pruned(config_name, model_name):
    """The two classes made of these two of transformers, and that of the model without its head;
    three None where it has none so called."""
    stock_config = getattr(transformers, config_name, None)
    stock_model = getattr(transformers, model_name, None)
    if stock_config is None or stock_model is None:
        return None, None, None

    class Config(OwnRules, stock_config):
        """The stock configuration, and what is left of each block."""

        model_type = f"pruned_{stock_config.model_type}"
        block_configs: list[dict[str, Any]] | None = None
        output_biases: list[list[bool]] | None = None
        block_layout: dict[str, Any] | None = None

    if is_dataclass(
        stock_config
    ):  # since transformers 5; without it all the checks are the stock's
        Config = strict(Config)

    class Model(Cut, stock_model):
        """The stock model, cut down."""

        config_class = Config

    class Base(Cut, transformers.MODEL_MAPPING[stock_config]):
        """The same without its head."""

        config_class = Config

    Config.__name__ = Config.__qualname__ = f"Pruned{config_name}"
    Model.__name__ = Model.__qualname__ = f"Pruned{model_name}"
    Base.__name__ = Base.__qualname__ = f"Pruned{Base.__mro__[2].__name__}"
    Config.register_for_auto_class()  # saved again, this file goes along
    Model.register_for_auto_class("AutoModelForCausalLM")
    Base.register_for_auto_class("AutoModel")
    return Config, Model, Base


PrunedLlamaConfig, PrunedLlamaForCausalLM, PrunedLlamaModel = pruned(
    "LlamaConfig", "LlamaForCausalLM"
)
PrunedMistralConfig, PrunedMistralForCausalLM, PrunedMistralModel = pruned(
    "MistralConfig", "MistralForCausalLM"
)
PrunedQwen2Config, PrunedQwen2ForCausalLM, PrunedQwen2Model = pruned(
    "Qwen2Config", "Qwen2ForCausalLM"
)
PrunedQwen3Config, PrunedQwen3ForCausalLM, PrunedQwen3Model = pruned(
    "Qwen3Config", "Qwen3ForCausalLM"
)
PrunedGemma2Config, PrunedGemma2ForCausalLM, PrunedGemma2Model = pruned(
    "Gemma2Config", "Gemma2ForCausalLM"
)
PrunedGemma3TextConfig, PrunedGemma3ForCausalLM, PrunedGemma3TextModel = pruned(
    "Gemma3TextConfig", "Gemma3ForCausalLM"
)
PrunedPhi3Config, PrunedPhi3ForCausalLM, PrunedPhi3Model = pruned("Phi3Config", "Phi3ForCausalLM")
PrunedOPTConfig, PrunedOPTForCausalLM, PrunedOPTModel = pruned("OPTConfig", "OPTForCausalLM")
PrunedGPTNeoXConfig, PrunedGPTNeoXForCausalLM, PrunedGPTNeoXModel = pruned(
    "GPTNeoXConfig", "GPTNeoXForCausalLM"
)
PrunedSmolLM3Config, PrunedSmolLM3ForCausalLM, PrunedSmolLM3Model = pruned(
    "SmolLM3Config", "SmolLM3ForCausalLM"
)
PrunedGraniteConfig, PrunedGraniteForCausalLM, PrunedGraniteModel = pruned(
    "GraniteConfig", "GraniteForCausalLM"
)
PrunedGemmaConfig, PrunedGemmaForCausalLM, PrunedGemmaModel = pruned(
    "GemmaConfig", "GemmaForCausalLM"
)
PrunedMinistral3Config, PrunedMinistral3ForCausalLM, PrunedMinistral3Model = pruned(
    "Ministral3Config", "Ministral3ForCausalLM"
)
PrunedSeedOssConfig, PrunedSeedOssForCausalLM, PrunedSeedOssModel = pruned(
    "SeedOssConfig", "SeedOssForCausalLM"
)
PrunedErnie4_5Config, PrunedErnie4_5ForCausalLM, PrunedErnie4_5Model = pruned(
    "Ernie4_5Config", "Ernie4_5ForCausalLM"
)
PrunedHunYuanDenseV1Config, PrunedHunYuanDenseV1ForCausalLM, PrunedHunYuanDenseV1Model = pruned(
    "HunYuanDenseV1Config", "HunYuanDenseV1ForCausalLM"
)
PrunedStarcoder2Config, PrunedStarcoder2ForCausalLM, PrunedStarcoder2Model = pruned(
    "Starcoder2Config", "Starcoder2ForCausalLM"
)
PrunedGlmConfig, PrunedGlmForCausalLM, PrunedGlmModel = pruned("GlmConfig", "GlmForCausalLM")
PrunedGlm4Config, PrunedGlm4ForCausalLM, PrunedGlm4Model = pruned("Glm4Config", "Glm4ForCausalLM")
PrunedCohere2Config, PrunedCohere2ForCausalLM, PrunedCohere2Model = pruned(
    "Cohere2Config", "Cohere2ForCausalLM"
)
PrunedPhiConfig, PrunedPhiForCausalLM, PrunedPhiModel = pruned("PhiConfig", "PhiForCausalLM")
PrunedStableLmConfig, PrunedStableLmForCausalLM, PrunedStableLmModel = pruned(
    "StableLmConfig", "StableLmForCausalLM"
)
PrunedOlmo2Config, PrunedOlmo2ForCausalLM, PrunedOlmo2Model = pruned(
    "Olmo2Config", "Olmo2ForCausalLM"
)
PrunedOlmo3Config, PrunedOlmo3ForCausalLM, PrunedOlmo3Model = pruned(
    "Olmo3Config", "Olmo3ForCausalLM"
)
