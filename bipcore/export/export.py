"""Writing a pruned model as a folder in one of the export formats, and reading it back."""

import json
import os
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
from ..store.files import MANIFEST, MANIFEST_FORMAT, check_destination, read_manifest, replacing
from .base import Format
from .card import ADAPTER, model_card
from .formats import AUTO, FORMATS, choose_format
from .forms import with_true_tie
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
            _let_read(unfinished)
            if adapter is not None:
                write_adapter(unfinished / ADAPTER, model, adapter)
                about["recovery"] = adapter.spec
            _write_words(unfinished, plan, about | made)
            report(0.5, "Reading it back")
            again = chosen.read_back(unfinished, form)
            made["max_logit_difference"] = compare(model, form, again, tolerance=chosen.tolerance)
            _write_manifest(unfinished, chosen, made | {"base_model": base_model, "source": source})
    except safetensors.SafetensorError as error:
        raise InputError(f"The export to {target} failed: {error}; nothing was kept.") from error
    report(1.0, "Exported")
    return read_export(target)


def _write_words(folder: Path, plan: PruningPlan, about: Mapping[str, Any]) -> None:
    """The plan and the card of the export in ``folder``, as others may read them."""
    (folder / "plan.json").write_text(public_plan(plan).to_json(), encoding="utf-8")
    card = model_card(plan, readers=readers_of(folder), **about)
    (folder / "README.md").write_text(card, "utf-8", "backslashreplace")


def _check_applied(model: nn.Module, plan: PruningPlan) -> None:
    if Adapter(model).shape.blocks != plan.pruned_shape.blocks:
        raise InputError("The model does not have the widths of the plan; apply the plan to it.")


def _made(form: nn.Module) -> tuple[dict[str, Any], int]:
    """The class and the number of parameters of ``form``, and the bytes that they take."""
    parameters = list(form.parameters())
    count = sum(p.numel() for p in parameters)
    size = sum(p.numel() * p.element_size() for p in parameters)
    return {"model_class": type(form).__name__, "parameters": count}, size


def _let_read(folder: Path) -> None:
    """Let others read the files as far as the user's mask lets them: safetensors does not."""
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o666 & ~umask)


def same_export(folder: str | Path, source: str) -> Export | None:
    """The export in ``folder`` if it is whole and made from the same ``source``, else None."""
    target = Path(folder).expanduser().resolve()
    manifest = read_manifest(target)
    if not source or manifest.get("source") != source:
        return None
    for name, size in manifest["files"].items():
        file = target / name
        if not file.is_file() or file.stat().st_size != size:
            return None
    return read_export(target)


def read_export(folder: str | Path) -> Export:
    """What `save_pruned` returned for ``folder``; raises InputError if it is no export."""
    target = Path(folder).expanduser().resolve()
    manifest = read_manifest(target)
    if not manifest:
        raise InputError(f"{target} is not an export of bipcore: it has no {MANIFEST}.")
    tier = manifest.get("tier", 1)
    return Export(
        folder=str(target),
        tier=tier,
        model_class=manifest["model_class"],
        parameters=manifest["parameters"],
        bytes=sum(manifest["files"].values()),
        max_logit_difference=manifest["max_logit_difference"],
        format=manifest.get("export_format") or _format_of_tier(tier),
    )


def load_pruned(
    folder: str | Path, *, device: str = "auto", dtype: str = "auto"
) -> tuple[nn.Module, object]:
    """The pruned model and tokenizer of an exported folder, of either tier.

    No code from the folder is run: bipcore has its own copy of the modelling file. Raises
    InputError.
    """
    read_export(folder)
    return load_model(str(Path(folder).expanduser().resolve()), device=device, dtype=dtype)


def _format_of_tier(tier: int) -> str:
    """The format of an export that does not name it, from before there were more than two."""
    return next(one.name for one in FORMATS.values() if one.tier == tier)


def _write_manifest(folder: Path, chosen: Format, facts: dict) -> None:
    files = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    facts = {"tier": chosen.tier, "export_format": chosen.name, **facts}
    facts["base_model"] = public_name(facts["base_model"])
    manifest = {"format": MANIFEST_FORMAT, **facts, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
