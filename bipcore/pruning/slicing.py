"""Applying a plan: a new, smaller model; and the masked model, the reference it is tested by."""

import copy
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from transformers import Cache

from ..errors import InputError
from ..models.adapters import Adapter, Block, Selection
from ..models.pruned_classes import block_configs
from ..models.streaming import cut, is_streamed
from .plan import BlockPlan, PruningPlan


def shallow_clone(model: nn.Module) -> nn.Module:
    """A copy of ``model`` with modules and configuration of its own that shares every tensor.

    Parameters are new objects over the same storage: moving, casting or freezing the copy does
    not touch the original. Changing values in place does (training, for instance): clone the
    parameters before that. Tied weights stay tied.
    """
    memo: dict[int, object] = {}
    for parameter in model.parameters():
        shared = nn.Parameter(parameter.detach(), requires_grad=parameter.requires_grad)
        memo[id(parameter)] = shared
    for buffer in model.buffers():
        memo[id(buffer)] = buffer.detach()
    return copy.deepcopy(model, memo)


def check_fits(adapter: Adapter, plan: PruningPlan) -> None:
    """Raise InputError unless ``plan`` was made for a model of these sizes, and can be applied."""
    if name := adapter.shape.differs_in(plan.shape):
        raise InputError(f"The plan was made for a model of another shape (its {name}).")
    if not any(keep.heads for keep in plan.blocks):
        raise InputError(
            "The plan removes the attention of every block, and without any no token can see "
            "another; keep a head in at least one block."
        )
    gone = any(parameter.is_meta for parameter in adapter.model.parameters())
    if gone and not is_streamed(adapter.model):
        raise InputError(
            "Part of the model is offloaded and cannot be sliced; load it where it fits."
        )


@torch.no_grad()
def apply_plan(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """The pruned model: stock `transformers` modules, with the rows and columns cut away.

    ``model`` is not touched; tensors that nothing was cut from are shared with it. The
    configuration says the new widths where all blocks have the same. The modules of a sublayer
    that is gone stay, 0 wide: what they add is the bias of the output projection. Raises
    InputError when the plan does not fit.
    """
    check_fits(Adapter(model), plan)
    pruned = shallow_clone(model)
    adapter = Adapter(pruned)
    for block, keep in zip(adapter.blocks, plan.blocks, strict=True):
        prune_block(block, keep.heads, keep.channels)
    adapter.write_widths(pruned.config)
    if getattr(pruned.config, "block_configs", None) is not None:  # an export loaded again
        shapes = [block.shape for block in adapter.blocks]
        pruned.config.block_configs = block_configs(pruned.config.model_type, shapes)
    for block in adapter.blocks:
        block.sync_attributes(pruned.config)
    return pruned


def prune_block(block: Block, heads: Sequence[int], channels: Sequence[int]) -> None:
    """Cut the projections of ``block`` down to these query heads and FFN channels, in place."""
    for selection in block.selections(heads, channels):
        _slice(selection)
        cut(block.module, selection.linear, selection.rows, selection.columns)
    if not heads:
        inner = f"{block.family.attention}."
        names = (path.removeprefix(inner) for path in (block.family.qkv[0], block.family.output))
        block.attention.forward = partial(_attend_nothing, block.attention, *names)


@torch.no_grad()
def sliced_block(adapter: Adapter, index: int, keep: BlockPlan) -> Block:
    """Block ``index`` cut down to ``keep``, as `apply_plan` does it, by itself: a copy that shares
    the tensors from which nothing was cut."""
    config = adapter.model.config
    block = Block(shallow_clone(adapter.blocks[index].module), adapter.family)
    prune_block(block, keep.heads, keep.channels)
    block.sync_attributes(config)
    return block


def _attend_nothing(
    attention: nn.Module, query: str, output: str, hidden_states: Tensor, **inputs
) -> tuple[Tensor, None]:
    """What ``attention`` without heads gives for ``hidden_states`` (B, T, d): its output bias.

    ``query`` and ``output`` are the names of its first and its last projection, both 0 wide.
    `transformers` reads the number of tokens so far, and the sizes of the masks, off the first
    blocks of the cache, so this block keeps its place there with one zero a token.
    """
    for cache in inputs.values():
        if isinstance(cache, Cache):
            counted = hidden_states.new_zeros(len(hidden_states), 1, hidden_states.shape[1], 1)
            cache.update(counted, counted, attention.layer_idx)
    nothing = getattr(attention, query)(hidden_states)  # (B, T, 0)
    return getattr(attention, output)(nothing), None


def _slice(selection: Selection) -> None:
    """Cut one linear layer (out, in) down to the selected rows and columns."""
    linear = selection.linear
    if selection.rows is not None and len(selection.rows) < linear.out_features:
        rows = selection.rows.to(linear.weight.device)
        linear.weight = _parameter(linear.weight[rows], linear.weight)
        if linear.bias is not None:
            linear.bias = _parameter(linear.bias[rows], linear.bias)
        linear.out_features = len(rows)
    if selection.columns is not None and len(selection.columns) < linear.in_features:
        columns = selection.columns.to(linear.weight.device)
        linear.weight = _parameter(linear.weight[:, columns], linear.weight)
        linear.in_features = len(columns)


def _parameter(values: Tensor, like: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(values.contiguous(), requires_grad=like.requires_grad)


@torch.no_grad()
def masked_model(model: nn.Module, plan: PruningPlan) -> nn.Module:
    """A full-size copy in which what the plan removes contributes nothing.

    The columns of the output projections that read removed heads and channels are zero. Slow
    and plain: the reference that `apply_plan` must equal.
    """
    check_fits(Adapter(model), plan)
    masked = copy.deepcopy(model)
    for block, keep in zip(Adapter(masked).blocks, plan.blocks, strict=True):
        for selection in block.selections(keep.heads, keep.channels):
            if selection.columns is not None:
                gone = torch.ones(selection.linear.in_features, dtype=torch.bool)
                gone[selection.columns] = False
                selection.linear.weight[:, gone.to(selection.linear.weight.device)] = 0
    return masked
