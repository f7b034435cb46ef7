"""Which stock `transformers` class can hold a pruned model, and the model as that class."""

import torch
from torch import nn
from transformers import MistralConfig, MistralForCausalLM

from .errors import InputError
from .families import family_of
from .plan import PruningPlan

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

    Usually itself. A LLaMA whose head count does not divide its hidden size becomes a
    Mistral: the same mathematics under the same weight names, without that rule. Shares the
    tensors of ``model``. Raises InputError, with the reason, where no stock class can hold it.
    """
    if reason := stock_problem(plan, model.config):
        raise InputError(reason)
    if _divides(plan) or not family_of(model.config).heads_divide_hidden:
        return model
    return _as_mistral(model)


def stock_problem(plan: PruningPlan, config) -> str | None:
    """Why no stock class can hold the pruned model, in a sentence; None where one can."""
    family = family_of(config)
    shapes = plan.pruned_shape.blocks
    if not plan.uniform:
        return (
            "The blocks of this plan have different widths, which no stock configuration can "
            "say; protect no blocks to export it."
        )
    shape = shapes[0]
    if shape.heads == 0 or shape.channels == 0:
        return "The plan removes whole sublayers, which no stock configuration can say."
    if not family.reloads_heads and shape.heads != plan.shape.blocks[0].heads:
        return (
            f"Stock {family.title} classes cannot be loaded with fewer heads of the same "
            "width; prune its channels only (attention unit none)."
        )
    if family.heads_divide_hidden and not _divides(plan) and not _has_mistral_twin(config):
        return (
            f"Stock {family.title} insists that the number of heads divides the hidden size, "
            f"and {shape.heads} does not divide {plan.shape.hidden}; ask for a sparsity that "
            "leaves another number of heads."
        )
    return None


def _divides(plan: PruningPlan) -> bool:
    return plan.shape.hidden % max(plan.pruned_shape.blocks[0].heads, 1) == 0


def _has_mistral_twin(config) -> bool:
    biased = getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False)
    return config.model_type == "llama" and not biased


def _as_mistral(model: nn.Module) -> nn.Module:
    fields = model.config.to_dict()
    config = MistralConfig(**{name: fields[name] for name in _SHARED_FIELDS}, sliding_window=None)
    with torch.device("meta"):
        twin = MistralForCausalLM(config)
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.tie_weights()
    twin.generation_config = model.generation_config
    # Its frequencies are not in the state dict, and would stay on the meta device.
    twin.model.rotary_emb = type(twin.model.rotary_emb)(config)
    return twin.eval()
