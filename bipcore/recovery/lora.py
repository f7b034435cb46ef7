"""Low-rank adapters of a model's linear layers: made, read, written and merged, all by `peft`.

LoRA (arXiv 2106.09685): a layer W (out, in) becomes W + (α / r)·B A, with A (r, in) and B (out, r)
trained and W left as it is. B starts at 0, so an adapter that was not trained changes nothing.
"""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..errors import InputError
from ..models.adapters import Adapter, Block
from ..pruning.slicing import shallow_clone
from ..specs import RecoverySpec

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PARTS = ("all", "attention", "ffn")


@dataclass(frozen=True, eq=False)
class LoraAdapter:
    """A trained adapter: its matrices by `peft`'s names, and the spec that they were trained by."""

    spec: RecoverySpec
    tensors: Mapping[str, Tensor]


def target_layers(model: nn.Module, targets: Sequence[str]) -> list[str]:
    """The full names of the linear layers of the blocks that ``targets`` means.

    ``targets``: "all", "attention" (q, k, v, o), "ffn" (gate, up, down), or the layers' own
    names as the model has them. Layers of a sublayer that is gone have nothing to adapt. Raises
    InputError for an unknown name, with those there are.
    """
    names = {module: name for name, module in model.named_modules()}
    found: dict[str, bool] = {}
    for block in Adapter(model).blocks:
        for linear in block.linears:
            own = names[linear].rpartition(".")[2]
            wanted = not {"all", _part(block, linear), own}.isdisjoint(targets)
            found[own] = found.get(own, False) or own in targets
            if wanted and linear.weight.numel():
                found[names[linear]] = True
    unknown = [target for target in targets if target not in _PARTS and target not in found]
    if unknown or not targets:
        own = ", ".join(name for name in found if "." not in name)
        said = repr(unknown[0]) if unknown else "an empty list"
        raise InputError(
            f"LoRA targets are {', '.join(_PARTS)}, or layers of this model ({own}), not {said}."
        )
    return [name for name, chosen in found.items() if chosen and "." in name]


def _part(block: Block, linear: nn.Linear) -> str:
    return "attention" if linear in (*block.qkv, block.o) else "ffn"


def with_adapter(model: nn.Module, spec: RecoverySpec) -> nn.Module:
    """A `peft` model over a copy of ``model`` that shares its tensors, with a fresh adapter.

    Only the adapter's matrices are trained; they are float32 whatever the model is, A is drawn
    from the spec's seed. ``model`` itself is not touched.
    """
    from peft import get_peft_model

    with warnings.catch_warnings(), seeded(spec.seed):
        warnings.simplefilter("ignore")
        return get_peft_model(shallow_clone(model), _config(model, spec)).eval()


def _config(model: nn.Module, spec: RecoverySpec):
    """The spec in the words of `peft`."""
    from peft import LoraConfig

    return LoraConfig(
        r=spec.rank,
        lora_alpha=spec.alpha,
        lora_dropout=spec.dropout,
        target_modules=target_layers(model, spec.targets),
        task_type="CAUSAL_LM",
    )


def adapter_tensors(tuned: nn.Module) -> dict[str, Tensor]:
    """The matrices of the adapter of ``tuned`` by `peft`'s names, copied to the CPU."""
    from peft import get_peft_model_state_dict

    found = get_peft_model_state_dict(tuned, save_embedding_layers=False)
    return {name: value.detach().cpu().clone() for name, value in found.items()}


def merged(model: nn.Module, adapter: LoraAdapter) -> nn.Module:
    """``model`` with the adapter added to its weights: of the same class, of the same sizes.

    ``model`` is not touched, and what the adapter does not change is shared with it. Raises
    InputError where the adapter was made for a model of other sizes.
    """
    from peft import set_peft_model_state_dict

    tuned = with_adapter(model, adapter.spec)
    expected = {name: value.shape for name, value in adapter_tensors(tuned).items()}
    if expected != {name: value.shape for name, value in adapter.tensors.items()}:
        raise InputError("The adapter was made for another model; recover this one anew.")
    set_peft_model_state_dict(tuned, dict(adapter.tensors))
    whole = tuned.merge_and_unload(safe_merge=True)  # else it adds to the tensors that are shared
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_(trained[name])
    return whole.eval()


def write_adapter(folder: Path, model: nn.Module, adapter: LoraAdapter) -> None:
    """Write the adapter to ``folder`` as `peft` reads it; ``model`` has the layers it adapts."""
    config = _config(model, adapter.spec)
    config.inference_mode = True
    config.save_pretrained(folder)
    whole = {name: value.contiguous() for name, value in adapter.tensors.items()}
    save_file(whole, folder / ADAPTER_WEIGHTS, {"format": "pt"})


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Within it torch draws from ``seed``; outside nothing is changed."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(seed)
        yield
