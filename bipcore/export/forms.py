"""A model as another class over the same tensors, and what a stock class has no place for."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from ..models.adapters import Adapter
from ..models.families import family_of
from ..models.streaming import rest_as
from ..pruning.slicing import shallow_clone

_NOT_PLAIN = (
    "model_type",
    "architectures",
    "auto_map",
    "block_configs",
    "output_biases",
    "block_layout",
)


def added_biases(model: nn.Module) -> list[list[bool]]:
    """For each block whether the attention's and the FFN's output projections have a bias that
    the stock class does not have."""
    has = stock_biases(model.config)
    return [
        [linear.bias is not None and not stock for linear, stock in zip(pair, has, strict=True)]
        for pair in ((block.o, block.down) for block in Adapter(model).blocks)
    ]


def stock_biases(config) -> list[bool]:
    """Whether the output projections of attention and FFN have a bias in the stock class."""
    said = family_of(config).output_biases
    return [getattr(config, flag) if isinstance(flag, str) else flag for flag in said]


def with_true_tie(model: nn.Module) -> nn.Module:
    """``model``, or where its configuration does not say whether embedding and head are one tensor
    as they are, a copy that does and shares its tensors.

    Published checkpoints have a head of their own and say they have none: some readers then take
    the embedding for it.
    """
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if model.config.tie_word_embeddings == tied:
        return model
    told = shallow_clone(model)
    told.config.tie_word_embeddings = tied
    return told


def plain_fields(config) -> dict[str, Any]:
    """The fields of a configuration without those that say which class it is."""
    return {name: value for name, value in config.to_dict().items() if name not in _NOT_PLAIN}


def shortened(model: nn.Module, left: Sequence[int]) -> nn.Module:
    """``model``, or where not all of its blocks are ``left``, by their numbers, a copy without the
    others that shares its tensors. Its configuration is not changed: it can be read, but not run.
    """
    path = family_of(model.config).blocks
    if len(left) == len(model.get_submodule(path)):
        return model
    shorter = shallow_clone(model)
    blocks = shorter.get_submodule(path)
    within, _, name = path.rpartition(".")
    setattr(shorter.get_submodule(within), name, nn.ModuleList(blocks[index] for index in left))
    return shorter


def rebuilt(model: nn.Module, kind: type[nn.Module], config) -> nn.Module:
    """``model`` as the class ``kind`` of ``config``, over the same tensors.

    Buffers that are not saved stay on the meta device: it can be saved, but not run.
    """
    with torch.device("meta"):
        twin = kind(config)
    twin.load_state_dict(model.state_dict(), assign=True)
    twin.tie_weights()
    rest_as(twin, model)
    twin.generation_config = model.generation_config
    return twin.eval()
