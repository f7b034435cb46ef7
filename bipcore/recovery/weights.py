"""Which weights a recovery trains, and the pruned model with what came of them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..models.adapters import Adapter
from ..pruning.slicing import shallow_clone
from ..specs import RecoverySpec
from .lora import LoraAdapter, adapter_tensors, merged, with_adapter

LORA = "lora"


def trainable(
    model: nn.Module, spec: RecoverySpec, dense: nn.Module | None
) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """A copy of ``model`` to train, and the weights of it that are, by name: the matrices of a
    fresh adapter, or weights of its own. The rest it shares with ``model``, which is not touched.

    Raises InputError where nothing is there to train.
    """
    if spec.train == LORA:
        tuned = with_adapter(model, spec)
    else:
        chosen = weights_of(model, spec.train, dense)
        tuned = shallow_clone(model).eval()
        for name, weight in tuned.named_parameters():
            weight.requires_grad_(name in chosen)
            if name in chosen:
                weight.data = weight.data.clone()
    return tuned, {name: w for name, w in tuned.named_parameters() if w.requires_grad}


def weights_of(model: nn.Module, train: str, dense: nn.Module | None) -> set[str]:
    """The names of the weights of the blocks of ``model`` that ``train`` means.

    "blocks": all. "refit": those of a shape that they do not have in ``dense``, that is of the
    projections that were cut, and all of one dimension, the gains of norms and biases. Raises
    InputError where there are none, or "refit" has no dense model.
    """
    if train == "refit" and dense is None:
        raise InputError("To train what was cut, the dense model is needed; give it.")
    names = {module: name for name, module in model.named_modules()}
    found = {
        f"{names[block.module]}.{name}": weight
        for block in Adapter(model).blocks
        for name, weight in block.module.named_parameters()
        if weight.numel()
    }
    if train == "refit":
        before = {name: weight.shape for name, weight in dense.named_parameters()}
        found = {
            name: weight
            for name, weight in found.items()
            if weight.dim() == 1 or before.get(name) != weight.shape
        }
    if not found:
        raise InputError(f"There is nothing to train of what {train!r} means; use another.")
    return set(found)


def trained_tensors(tuned: nn.Module, spec: RecoverySpec) -> dict[str, Tensor]:
    """What was trained, copied to the CPU: the adapter by `peft`'s names, or the weights by the
    model's, in its type."""
    if spec.train == LORA:
        return adapter_tensors(tuned)
    return {
        name: weight.detach().cpu().clone()
        for name, weight in tuned.named_parameters()
        if weight.requires_grad
    }


@torch.no_grad()
def recovered_model(
    model: nn.Module, spec: RecoverySpec, tensors: Mapping[str, Tensor]
) -> nn.Module:
    """``model`` with what `trained_tensors` gave: of the same class, of the same sizes.

    ``model`` is not touched, and what was not trained is shared with it. Raises InputError where
    the tensors are those of a model of other sizes.
    """
    if spec.train == LORA:
        return merged(model, LoraAdapter(spec, tensors))
    whole = shallow_clone(model)
    weights = dict(whole.named_parameters())
    for name, tensor in tensors.items():
        if name not in weights or weights[name].shape != tensor.shape:
            raise InputError("The weights were trained for another model; recover this one anew.")
        weights[name].data = tensor.to(weights[name])
    return whole.eval()
