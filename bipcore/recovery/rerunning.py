"""Gradient checkpointing: which blocks are run again on the way back, so that less is held."""

from torch import nn

from ..evaluation.footprint import training_pass
from ..models.adapters import Adapter
from ..models.memory import free_memory
from ..specs import RecoverySpec

_WRAPPED = "base_model.model."  # what `peft` puts before the names of a model's modules


def blocks_run_again(
    model: nn.Module, tuned: nn.Module, spec: RecoverySpec, tokens: int, asked: bool | None
) -> list[nn.Module]:
    """The blocks of ``tuned``, the copy of ``model`` that is trained, where gradient checkpointing
    is ``asked`` for; else none. None of ``asked``: where a pass of so many tokens keeps more for
    the way back without it than is free.

    It changes what is held and how long a step takes, and nothing of what comes of it.
    """
    adapter = Adapter(model)
    if asked is None:
        kept = training_pass(adapter.shape, spec, tokens, checkpointed=False)
        asked = sum(kept.values()) > free_memory(adapter.input_device)
    names = {module: name for name, module in model.named_modules()}
    blocks = {names[block.module] for block in adapter.blocks} if asked else set()
    return [m for name, m in tuned.named_modules() if name.removeprefix(_WRAPPED) in blocks]
