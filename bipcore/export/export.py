"""Writing a pruned model as a folder in one of the export formats, and reading it back."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from torch import nn

from ..errors import InputError
from ..models.adapters import Adapter
from ..models.loading import load_model
from ..progress import Progress, silent
from ..pruning.plan import PruningPlan
from ..recovery.lora import LoraAdapter, write_adapter
from ..store.files import MANIFEST, check_destination, read_manifest, replacing
from ..store.inputs import named_path
from .card import ADAPTER, CARD, model_card
from .formats import AUTO, FORMATS, choose_format
from .forms import with_true_tie
from .manifest import changed, has_checksums, write_manifest
from .older_readers import readers_of
from .public import public_name, public_plan
from .readback import compare


@dataclass(frozen=True)
class Export:
    """What was written: the folder, the class that loads it, sizes, and the largest difference
    between the logits of the model in memory and of the folder read back.

    ``tier``: 1 where stock `transformers` loads it by its name alone, 2 where that needs the
    folder's modelling file, so ``trust_remote_code=True`` or `load_pruned`. ``format``: the name
    of the format.
    """

    folder: str
    tier: int
    model_class: str
    parameters: int
    bytes: int
    max_logit_difference: float
    format: str = "stock"


def save_pruned(
    model: nn.Module,
    tokenizer,
    folder: str | Path,
    *,
    plan: PruningPlan,
    base_model: str = "",
    licence: str = "unknown",
    figures: Mapping[str, Any] | None = None,
    source: str = "",
    adapter: LoraAdapter | None = None,
    format: str = AUTO,
    progress: Progress | None = None,
) -> Export:
    """Write the pruned ``model``, its tokenizer, plan and model card to ``folder``.

    ``figures`` are rows for the card, name -> (before, after); ``source`` identifies what the
    export was made from, for `same_export`. With ``adapter``, which is merged into ``model``, it
    is kept in a folder of its own, and the figures are (dense, pruned, recovered). ``format``:
    the name of one of `FORMATS`, or "auto" for the first that can hold the plan.

    Everything is written beside the folder, loaded again and compared, and only then renamed into
    place. An earlier export there is replaced. Raises InputError when ``plan`` is not the one
    that was applied, the format is unknown or cannot hold it, the folder holds anything else, it
    cannot be written, or the disk is full; nothing is left behind.
    """
    target = check_destination(folder)
    _check_applied(model, plan)
    chosen, reason = choose_format(plan, model.config, model, name=format)
    form = chosen.form(with_true_tie(model), plan)
    report = progress or silent
    made, size = _made(form)
    about = {"base_model": base_model, "licence": licence, "figures": figures or {}}
    about |= {"name": target.name, "written_as": chosen, "reason": reason}
    try:
        with replacing(target, size=size) as unfinished:
            report(0.1, "Writing the model")
            chosen.write(form, tokenizer, unfinished)
            if adapter is not None:
                write_adapter(unfinished / ADAPTER, model, adapter)
                about["recovery"] = adapter.spec
            _write_words(unfinished, plan, about | made)
            report(0.5, "Reading it back")
            again = chosen.read_back(unfinished, form)
            made["max_logit_difference"] = compare(model, form, again, tolerance=chosen.tolerance)
            made |= {"base_model": public_name(base_model), "source": source}
            made |= {"tier": chosen.tier, "export_format": chosen.name}
            write_manifest(unfinished, made)
    except safetensors.SafetensorError as error:
        raise InputError(f"The export to {target} failed: {error}; nothing was kept.") from error
    report(1.0, "Exported")
    return read_export(target)


def _write_words(folder: Path, plan: PruningPlan, about: Mapping[str, Any]) -> None:
    """The plan and the card of the export in ``folder``, as others may read them."""
    (folder / "plan.json").write_text(public_plan(plan).to_json(), encoding="utf-8")
    card = model_card(plan, readers=readers_of(folder), **about)
    (folder / CARD).write_text(card, "utf-8", "backslashreplace")


def _check_applied(model: nn.Module, plan: PruningPlan) -> None:
    if Adapter(model).shape.blocks != plan.pruned_shape.blocks:
        raise InputError("The model does not have the widths of the plan; apply the plan to it.")


def _made(form: nn.Module) -> tuple[dict[str, Any], int]:
    """The class and the number of parameters of ``form``, and the bytes that they take."""
    parameters = list(form.parameters())
    count = sum(p.numel() for p in parameters)
    size = sum(p.numel() * p.element_size() for p in parameters)
    return {"model_class": type(form).__name__, "parameters": count}, size


def same_export(folder: str | Path, source: str) -> Export | None:
    """The export in ``folder`` if it is whole, to the last bit, and made from the same ``source``,
    else None."""
    target = named_path(folder, "The export").resolve()
    manifest = read_manifest(target)
    if not source or manifest.get("source") != source or not has_checksums(manifest):
        return None
    return None if changed(target) else read_export(target)


def read_export(folder: str | Path) -> Export:
    """What `save_pruned` returned for ``folder``; raises InputError if it is no export."""
    target = named_path(folder, "The export").resolve()
    manifest = read_manifest(target)
    if not manifest:
        raise InputError(f"{target} is not an export of bipcore: it has no {MANIFEST}.")
    tier = manifest.get("tier", 1)
    try:
        return Export(
            folder=str(target),
            tier=tier,
            model_class=manifest["model_class"],
            parameters=manifest["parameters"],
            bytes=sum(manifest["files"].values()),
            max_logit_difference=manifest["max_logit_difference"],
            format=manifest.get("export_format") or _format_of_tier(tier),
        )
    except (LookupError, StopIteration):
        raise InputError(f"{target} has a {MANIFEST} that is damaged; export it again.") from None


def load_pruned(
    folder: str | Path, *, device: str = "auto", dtype: str = "auto"
) -> tuple[nn.Module, object]:
    """The pruned model and tokenizer of an exported folder, of either tier.

    No code from the folder is run: bipcore has its own copy of the modelling file. Raises
    InputError, also where a file other than the card is not as it was written.
    """
    target = Path(read_export(folder).folder)
    if why := changed(target, but=CARD):
        raise InputError(f"The export {target} is not as it was made ({why}); export it again.")
    return load_model(str(target), device=device, dtype=dtype)


def _format_of_tier(tier: int) -> str:
    """The format of an export that does not name it, from before there were more than two."""
    return next(one.name for one in FORMATS.values() if one.tier == tier)
