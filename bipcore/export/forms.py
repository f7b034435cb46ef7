"""Which stock `transformers` class can hold a pruned model, and the model as that class."""

from typing import Any

import torch
import transformers as tf
from torch import nn

from ..errors import InputError
from ..models.adapters import Adapter
from ..models.families import base_type, family_of
from ..models.pruned_classes import classes_of, layout_of
from ..pruning.plan import PruningPlan

_SHARED_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "hidden_act",
    "max_position_embeddings",
    "initializer_range",
    "rms_norm_eps",
    "use_cache",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "tie_word_embeddings",
    "rope_parameters",
    "attention_dropout",
)
_NOT_PLAIN = (
    "model_type",
    "architectures",
    "auto_map",
    "block_widths",
    "output_biases",
    "block_layout",
)


def stock_form(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """``model`` as the stock class that can be saved and loaded by name alone.

    Usually itself. A LLaMA whose head count does not divide its hidden size becomes a
    Mistral: the same mathematics under the same weight names, without that rule. Shares the
    tensors of ``model``. Raises InputError, with the reason, where no stock class can hold it.
    """
    if reason := stock_problem(plan, model.config, model):
        raise InputError(reason)
    if not _divides(plan) and family_of(model.config).heads_divide_hidden:
        return _as_mistral(model)
    base = base_type(model.config.model_type)
    if base == model.config.model_type:
        return model
    config = tf.CONFIG_MAPPING[base].from_dict(plain_fields(model.config))
    return rebuilt(model, tf.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)


def stock_problem(plan: PruningPlan, config, model: nn.Module | None = None) -> str | None:
    """Why no stock class can hold the pruned model, in a sentence; None where one can.

    ``config`` is that of the dense or of the pruned model. With the pruned ``model`` its biases
    are looked at, without it the plan says whether there will be any that a stock class lacks.
    """
    family = family_of(config)
    shapes = plan.pruned_shape.blocks
    if not plan.uniform:
        return (
            "The blocks of this plan have different widths, which no stock configuration can say."
        )
    shape = shapes[0]
    if shape.heads == 0 or shape.channels == 0:
        return "The plan removes whole sublayers, which no stock configuration can say."
    if not family.reloads_heads and shape.heads * plan.shape.head_dim != plan.shape.hidden:
        return f"Stock {family.title} classes cannot be loaded with fewer heads of the same width."
    if family.heads_divide_hidden and not _divides(plan) and not _has_mistral_twin(config):
        return (
            f"Stock {family.title} insists that the number of heads divides the hidden size, "
            f"and {shape.heads} does not divide {plan.shape.hidden}."
        )
    if _expects_biases(plan, config) if model is None else any(map(any, added_biases(model))):
        return (
            f"The compensation adds biases to output projections, and stock {family.title} "
            "classes have none there."
        )
    return None


def added_biases(model: nn.Module) -> list[list[bool]]:
    """For each block whether the attention's and the FFN's output projections have a bias that
    the stock class does not have."""
    has = _stock_biases(model.config)
    return [
        [linear.bias is not None and not stock for linear, stock in zip(pair, has, strict=True)]
        for pair in ((block.o, block.down) for block in Adapter(model).blocks)
    ]


def _stock_biases(config) -> list[bool]:
    """Whether the output projections of attention and FFN have a bias in the stock class."""
    said = family_of(config).output_biases
    return [getattr(config, flag) if isinstance(flag, str) else flag for flag in said]


def _expects_biases(plan: PruningPlan, config) -> bool:
    """Whether pruning by ``plan`` leaves biases that the stock class lacks."""
    if getattr(config, "output_biases", None):
        return True
    now, before = plan.pruned_shape.blocks[0], plan.shape.blocks[0]
    cut = (now.heads < before.heads, now.channels < before.channels)
    lacking = any(c and not has for c, has in zip(cut, _stock_biases(config), strict=True))
    return plan.spec.get("compensation") == "bias" and lacking


def _divides(plan: PruningPlan) -> bool:
    return plan.shape.hidden % max(plan.pruned_shape.blocks[0].heads, 1) == 0


def _has_mistral_twin(config) -> bool:
    return base_type(config.model_type) == "llama" and not any(_stock_biases(config))


def _as_mistral(model: nn.Module) -> nn.Module:
    fields = model.config.to_dict()
    config = tf.MistralConfig(
        **{name: fields[name] for name in _SHARED_FIELDS}, sliding_window=None
    )
    twin = rebuilt(model, tf.MistralForCausalLM, config)
    # Its frequencies are not in the state dict, and would stay on the meta device.
    twin.model.rotary_emb = type(twin.model.rotary_emb)(config)
    return twin


def plain_fields(config) -> dict[str, Any]:
    """The fields of a configuration without those that say which class it is."""
    return {name: value for name, value in config.to_dict().items() if name not in _NOT_PLAIN}


def rebuilt(model: nn.Module, kind: type[nn.Module], config) -> nn.Module:
    """``model`` as the class ``kind`` of ``config``, over the same tensors.

    Buffers that are not saved stay on the meta device: it can be saved, but not run.
    """
    with torch.device("meta"):
        twin = kind(config)
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.tie_weights()
    twin.generation_config = model.generation_config
    return twin.eval()


def pruned_form(model: nn.Module) -> nn.Module:
    """``model`` as the class of its modelling file, whose configuration says all widths.

    It is there to be saved, and that file with it: it shares the tensors of ``model``, and does
    not run.
    """
    shapes, added = Adapter(model).shape.blocks, added_biases(model)
    classes = classes_of(model.config.model_type)
    config = classes.config.from_dict(
        plain_fields(model.config)
        | {
            "block_widths": [[block.heads, block.kv_heads, block.channels] for block in shapes],
            "output_biases": added if any(map(any, added)) else None,
            "block_layout": layout_of(model.config.model_type),
        }
    )
    return rebuilt(model, classes.model, config)
