"""Writing a pruned model in one of the export formats, and reading it back."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
from torch import nn

from ..errors import InputError
from ..models.adapters import Adapter
from ..models.loading import load_model
from ..progress import Progress, silent
from ..pruning.plan import NOTHING, PruningPlan
from ..recovery.lora import LoraAdapter, write_adapter
from ..specs import RecoverySpec
from ..store.manifest import checksums, has_checksums, write_manifest
from .base import Format
from .card import ADAPTER, model_card
from .formats import AUTO, FORMATS, choose_format, find_kind
from .forms import with_true_tie
from .number_types import Checkpoint, Written, disk_rows, type_to_write
from .older_readers import readers_of
from .places import Place, check_target, place_of, writing
from .public import public_name, public_plan
from .readback import compare


@dataclass(frozen=True)
class Export:
    """What was written: the folder, or the file, the class that loads it, sizes, and the largest
    difference between the logits of the model in memory and of what was read back.

    ``tier``: 1 where stock `transformers` loads it by its name alone, 2 where that needs the
    folder's modelling file, so ``trust_remote_code=True`` or `load_pruned`, 3 where it is for
    another program. ``format``: the name
    of the format. ``dtype`` is the type of its weights; ``dtype_before`` and ``bytes_before`` are
    those of the dense model's files, None where it was not said where they are.
    """

    folder: str
    tier: int
    model_class: str
    parameters: int
    bytes: int
    max_logit_difference: float
    format: str = "stock"
    dtype: str = ""
    dtype_before: str | None = None
    bytes_before: int | None = None


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
    recovery: RecoverySpec | None = None,
    adapter: LoraAdapter | None = None,
    format: str = AUTO,
    save_dtype: str = "auto",
    quantize: str = "auto",
    checkpoint: Checkpoint | None = None,
    progress: Progress | None = None,
) -> Export:
    """Write the pruned ``model``, its tokenizer, plan and model card to ``folder``, which for a
    format like GGUF is a file, with the others beside it.

    ``figures`` are rows for the card, name -> (before, after); ``source`` identifies what the
    export was made from, for `same_export`. With ``recovery`` or ``adapter`` the model was trained
    so after it was pruned, and the figures are (dense, pruned, recovered); the adapter, which is
    merged into ``model``, is kept in a folder of its own. ``format``:
    the name of one of `FORMATS`, or "auto" for the first that can hold the plan. ``save_dtype``:
    the type that is written, "float32", "bfloat16", "float16", or "auto" for that of the
    ``checkpoint`` of the dense model, where this one is not in a narrower one. ``quantize``: in its
    place one of the ``kinds`` of a format that has such.

    Everything is written beside the folder, loaded again and compared, and only then renamed into
    place. An earlier export there is replaced. Raises InputError when ``plan`` is not the one
    that was applied, or removes nothing, the format is unknown or cannot hold it, the folder holds
    anything else, it cannot be written, the type cannot hold it, or the disk is full; nothing is
    left behind.
    """
    place = check_target(folder, format)
    recovery = adapter.spec if adapter else recovery
    _check_plan(model, plan, recovered=recovery is not None)
    find_kind(format, quantize, save_dtype)
    chosen, reason = choose_format(plan, model.config, model, name=format, kind=quantize)
    check_tokenizer(chosen, tokenizer, model.config)
    dtype = type_to_write(save_dtype, model, checkpoint)
    written = chosen.rounded(chosen.form(with_true_tie(model), plan), dtype)
    made = _made(chosen, written.form, plan)
    facts = {**made, **_facts(chosen, written, checkpoint, base_model), "source": source}
    about = {"base_model": base_model, "licence": licence, "figures": figures or {}, **made}
    about |= {"written_as": chosen, "reason": reason, "recovery": recovery}
    about["on_disk"] = disk_rows(checkpoint, written)
    report = progress or silent
    with _writing(place, chosen, written) as unfinished:
        report(0.1, "Writing the model")
        chosen.write(written.form, tokenizer, place.at(unfinished))
        _write_words(unfinished, place, plan, about, model, adapter)
        report(0.5, "Reading it back")
        _read_back(unfinished, place, chosen, model, written, facts)
    report(1.0, "Exported")
    return read_export(place.target)


@contextmanager
def _writing(place: Place, chosen: Format, written: Written) -> Iterator[Path]:
    """`writing`, which says of what safetensors cannot do that nothing was kept."""
    try:
        with writing(place, chosen, size=written.bytes) as unfinished:
            yield unfinished
    except safetensors.SafetensorError as error:
        raise InputError(
            f"The export to {place.target} failed: {error}; nothing was kept."
        ) from error


def check_tokenizer(chosen: Format, tokenizer, config) -> None:
    """Raise InputError where the format cannot hold the tokenizer of a model of ``config``."""
    problem = chosen.tokenizer_problem and chosen.tokenizer_problem(tokenizer, config)
    if problem:
        raise InputError(problem)


def _read_back(
    root: Path,
    place: Place,
    chosen: Format,
    model: nn.Module,
    written: Written,
    facts: Mapping[str, Any],
) -> None:
    """Compare what was written with ``model``, and write the manifest: ``facts``, the largest
    difference of the logits, and the checksums."""
    with ThreadPoolExecutor(1) as beside:
        sums = beside.submit(checksums, root)
        again = chosen.read_back(place.at(root), written.form)
        how = {"tolerance": chosen.tolerance, "rounded": written.rounded}
        difference = compare(model, written.form, again, **how)
        said = {**facts, "max_logit_difference": difference}
        write_manifest(root, said, sums.result(), place.manifest)


def _write_words(
    root: Path,
    place: Place,
    plan: PruningPlan,
    about: Mapping[str, Any],
    model: nn.Module,
    adapter: LoraAdapter | None,
) -> None:
    """The adapter, the plan and the card of the export in ``root``, as others may read them."""
    if adapter is not None and not place.file:
        write_adapter(root / ADAPTER, model, adapter)
    (root / place.plan).write_text(public_plan(plan).to_json(), encoding="utf-8")
    names = {"place": place.target.name, "plan_file": place.plan}
    card = model_card(plan, readers=readers_of(root), **names, **about)
    (root / place.card).write_text(card, "utf-8", "backslashreplace")


def _check_plan(model: nn.Module, plan: PruningPlan, *, recovered: bool) -> None:
    """Raise InputError where ``plan`` is not what was done to ``model``, or is nothing."""
    if Adapter(model).shape.blocks != plan.pruned_shape.blocks:
        raise InputError("The model does not have the widths of the plan; apply the plan to it.")
    check_removes(plan, recovered=recovered)


def check_removes(plan: PruningPlan, *, recovered: bool) -> None:
    """Raise InputError where what ``plan`` leaves is the dense model, unless it was ``recovered``:
    fine-tuned, it is another one."""
    if plan.removes_nothing and not recovered:
        raise InputError(NOTHING)


def _made(chosen: Format, form: nn.Module, plan: PruningPlan) -> dict[str, Any]:
    """What the model ``form`` is called by those that load it, and its number of parameters."""
    name = chosen.reader_class(form, plan) if chosen.reader_class else type(form).__name__
    return {"model_class": name, "parameters": sum(p.numel() for p in form.parameters())}


def _facts(
    chosen: Format, written: Written, before: Checkpoint | None, base_model: str
) -> dict[str, Any]:
    """What the manifest says of how the model was written, and from what."""
    said = {"tier": chosen.tier, "export_format": chosen.name, "dtype": written.type}
    if before is not None:
        said |= {"dtype_before": before.dtype, "bytes_before": before.bytes}
    return said | {"base_model": public_name(base_model)}


def same_export(folder: str | Path, source: str) -> Export | None:
    """The export in ``folder``, or the file of that name, if it is whole, to the last bit, and made
    from the same ``source``, else None."""
    place = place_of(folder)
    manifest = place.read_manifest()
    if not source or manifest.get("source") != source or not has_checksums(manifest):
        return None
    return None if place.changed() else read_export(place.target)


def read_export(folder: str | Path) -> Export:
    """What `save_pruned` returned for ``folder``, or for the file of that name; raises InputError
    if it is no export."""
    place = place_of(folder)
    manifest = place.read_manifest()
    if not manifest:
        raise InputError(f"{place.target} is not an export of bipcore: it has no {place.manifest}.")
    tier = manifest.get("tier", 1)
    try:
        return Export(
            folder=str(place.target),
            tier=tier,
            model_class=manifest["model_class"],
            parameters=manifest["parameters"],
            bytes=sum(manifest["files"].values()),
            max_logit_difference=manifest["max_logit_difference"],
            format=manifest.get("export_format") or _format_of_tier(tier),
            dtype=manifest.get("dtype", ""),
            dtype_before=manifest.get("dtype_before"),
            bytes_before=manifest.get("bytes_before"),
        )
    except (LookupError, StopIteration):
        raise InputError(
            f"{place.target} has a {place.manifest} that is damaged; export it again."
        ) from None


def load_pruned(
    folder: str | Path, *, device: str = "auto", dtype: str = "auto", memory: str = "auto"
) -> tuple[nn.Module, object]:
    """The pruned model and tokenizer of an exported folder, of either tier.

    No code from the folder is run: bipcore has its own copy of the modelling file. Raises
    InputError, also where what the model is read from is not as it was written.
    """
    where = read_export(folder).folder
    return load_model(where, device=device, dtype=dtype, memory=memory)


def _format_of_tier(tier: int) -> str:
    """The format of an export that does not name it, from before there were more than two."""
    return next(one.name for one in FORMATS.values() if one.tier == tier)
