"""The format without code: a stock `transformers` class and a plain config.json."""

import json
from functools import lru_cache
from pathlib import Path

import torch
import transformers as tf
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from ..errors import InputError, reason_of
from ..models.adapters import Adapter
from ..models.families import base_type, family_of
from ..models.shapes import BlockShape
from ..models.streaming import is_streamed
from ..pruning.plan import PruningPlan
from .base import Format
from .folder import loading_code, write_folder
from .forms import added_biases, plain_fields, rebuilt, shortened, stock_biases
from .streamed import read_streamed

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


def stock_form(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """``model`` as the stock class that can be saved and loaded by name alone.

    Usually itself. Where whole blocks are gone it is a model of fewer. A LLaMA whose head count
    does not divide its hidden size becomes a Mistral: the same mathematics under the same weight
    names, without that rule. Shares the tensors of ``model``. Raises InputError, with the reason,
    where no stock class can hold it.
    """
    if reason := stock_problem(plan, model.config, model):
        raise InputError(reason)
    config = stock_config(plan, model.config)
    shorter = shortened(model, plan.left)
    if config.model_type == model.config.model_type and shorter is model:
        return model
    twin = rebuilt(shorter, tf.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)], config)
    if base_type(model.config.model_type) != config.model_type:
        # Its frequencies are not in the state dict, and would stay on the meta device.
        twin.model.rotary_emb = type(twin.model.rotary_emb)(config)
    return twin


def stock_config(plan: PruningPlan, config) -> tf.PreTrainedConfig:
    """The configuration of the stock class for what the uniform ``plan`` leaves of a model;
    ``config`` is that of the dense or of the pruned one. Raises whatever the class's checks do."""
    family, shape = family_of(config), plan.pruned_shape.blocks[plan.left[0]]
    fields = plain_fields(config) | {family.channels_field: shape.channels}
    if len(plan.left) < len(plan.blocks):
        fields["num_hidden_layers"] = len(plan.left)
        for name in family.block_lists:
            if values := fields.get(name):
                fields[name] = [values[index] for index in plan.left]
    if family.reloads_heads:
        fields |= {"num_attention_heads": shape.heads, "num_key_value_heads": shape.kv_heads}
        fields["head_dim"] = plan.shape.head_dim
    if not _divides(plan) and family.heads_divide_hidden:
        shared = {name: fields[name] for name in _SHARED_FIELDS}
        return tf.MistralConfig(**shared, sliding_window=None)
    return tf.CONFIG_MAPPING[base_type(config.model_type)].from_dict(fields)


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
    shape = shapes[plan.left[0]]
    if len(plan.left) < len(shapes) and any(stock_biases(config)):
        return (
            f"The plan removes whole blocks, and what their output biases add in {family.title} "
            "stays, which no stock configuration can say."
        )
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
    return _built_otherwise(plan, config)


def _expects_biases(plan: PruningPlan, config) -> bool:
    """Whether pruning by ``plan`` leaves biases that the stock class lacks."""
    if getattr(config, "output_biases", None):
        return True
    first = plan.left[0]
    now, before = plan.pruned_shape.blocks[first], plan.shape.blocks[first]
    cut = (now.heads < before.heads, now.channels < before.channels)
    lacking = any(c and not has for c, has in zip(cut, stock_biases(config), strict=True))
    return plan.spec.get("compensation") == "bias" and lacking


def _divides(plan: PruningPlan) -> bool:
    return plan.shape.hidden % max(plan.pruned_shape.blocks[plan.left[0]].heads, 1) == 0


def _has_mistral_twin(config) -> bool:
    return base_type(config.model_type) == "llama" and not any(stock_biases(config))


def _built_otherwise(plan: PruningPlan, config) -> str | None:
    """Why no stock class is built with the widths of the uniform ``plan``, in a sentence: some
    configurations work other sizes out from them. Tried on the meta device, without weights."""
    title = family_of(config).title
    try:
        stock = stock_config(plan, config)
        blocks = _built_blocks(type(stock), stock.to_json_string())
    except Exception as error:  # whatever the checks of its configuration lead to
        reason = reason_of(error.__cause__ or error)
        return f"Stock {title} classes cannot be built with the widths that are left: {reason}."
    if blocks != tuple(plan.pruned_shape.blocks[index] for index in plan.left):
        return f"Stock {title} classes are built with other widths than those that are left."
    return None


@lru_cache(maxsize=8)
def _built_blocks(kind: type[tf.PreTrainedConfig], fields: str) -> tuple[BlockShape, ...]:
    """The widths of the blocks of the stock class for a configuration."""
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(kind.from_dict(json.loads(fields)))
    return Adapter(built).shape.blocks


def _read_back(folder: Path, form: nn.Module) -> nn.Module:
    if is_streamed(form):
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        return read_streamed(folder, form, lambda: AutoModelForCausalLM.from_config(config))
    return AutoModelForCausalLM.from_pretrained(folder, dtype=form.dtype, local_files_only=True)


FORMAT = Format(
    name="stock",
    title="Stock transformers class",
    tier=1,
    problem=stock_problem,
    form=stock_form,
    write=write_folder,
    read_back=_read_back,
    loading_code=loading_code,
    card="""The class is `{model_class}`, as it stands in `transformers`; no code from this folder
is run.""",
    notice="Tier 1, a plain folder: stock `transformers` loads it with "
    "`AutoModelForCausalLM.from_pretrained(folder)`, and no code comes with it.",
)
