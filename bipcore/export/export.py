"""Writing a pruned model as a folder that `transformers` loads, and reading it back.

Tier 1: a stock class, a plain config.json. Tier 2, where no stock class can hold the model: the
same with one modelling file, which `transformers` runs when given ``trust_remote_code=True``.
"""

import copy
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ..errors import InputError
from ..evaluation.profiling import random_tokens
from ..models.adapters import Adapter
from ..models.loading import load_model, save_tokenizer
from ..models.pruned_classes import MODELLING_FILE, classes_of, is_pruned_type
from ..models.running import evaluation_mode
from ..progress import Progress, silent
from ..pruning.plan import PruningPlan
from ..recovery.lora import LoraAdapter, write_adapter
from ..store.files import FORMAT, MANIFEST, check_destination, read_manifest, replacing
from .card import ADAPTER, model_card
from .forms import pruned_form, stock_form, stock_problem

_TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}


@dataclass(frozen=True)
class Export:
    """What was written: the folder, the class that loads it, sizes, and the largest difference
    between the logits of the model in memory and of the folder read back.

    ``tier``: 1 where stock `transformers` loads it by its name alone, 2 where that needs the
    folder's modelling file, so ``trust_remote_code=True`` or `load_pruned`.
    """

    folder: str
    tier: int
    model_class: str
    parameters: int
    bytes: int
    max_logit_difference: float


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
    progress: Progress | None = None,
) -> Export:
    """Write the pruned ``model``, its tokenizer, plan and model card to ``folder``.

    ``figures`` are rows for the card, name -> (before, after); ``source`` identifies what the
    export was made from, for `same_export`. With ``adapter``, which is merged into ``model``, it
    is kept in a folder of its own, and the figures are (dense, pruned, recovered).

    Everything is written beside the folder, loaded again and compared, and only then renamed into
    place. An earlier export there is replaced. Raises InputError when ``plan`` is not the one
    that was applied, the folder holds anything else, it cannot be written, or the disk is full;
    nothing is left behind.
    """
    target = check_destination(folder)
    if Adapter(model).shape.blocks != plan.pruned_shape.blocks:
        raise InputError("The model does not have the widths of the plan; apply the plan to it.")
    reason = stock_problem(plan, model.config, model)
    form = pruned_form(model) if reason else stock_form(model, plan)
    report = progress or silent
    facts = _facts(form, tier=2 if reason else 1)
    about = {"base_model": base_model, "licence": licence, "figures": figures or {}}
    size = sum(p.numel() * p.element_size() for p in form.parameters())
    try:
        with replacing(target, size=size) as unfinished:
            report(0.1, "Writing the model")
            _write(form, tokenizer, unfinished, plan)
            if adapter is not None:
                write_adapter(unfinished / ADAPTER, model, adapter)
            recovery = adapter.spec if adapter else None
            about |= {"name": target.name, "reason": reason, "recovery": recovery}
            card = model_card(plan, **about, **facts)
            (unfinished / "README.md").write_text(card, encoding="utf-8")
            report(0.5, "Reading it back")
            facts |= {"max_logit_difference": _compare(model, form, unfinished)}
            facts |= {"base_model": base_model, "source": source}
            _write_manifest(unfinished, facts)
    except safetensors.SafetensorError as error:
        raise InputError(f"The export to {target} failed: {error}; nothing was kept.") from error
    report(1.0, "Exported")
    return read_export(target)


def _facts(form: nn.Module, *, tier: int) -> dict[str, Any]:
    parameters = sum(p.numel() for p in form.parameters())
    return {"tier": tier, "model_class": type(form).__name__, "parameters": parameters}


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
    return Export(
        folder=str(target),
        tier=manifest.get("tier", 1),
        model_class=manifest["model_class"],
        parameters=manifest["parameters"],
        bytes=sum(manifest["files"].values()),
        max_logit_difference=manifest["max_logit_difference"],
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


def _write(form: nn.Module, tokenizer, folder: Path, plan: PruningPlan) -> None:
    settings = form.generation_config
    form.generation_config = _valid_generation_config(settings)
    try:
        form.save_pretrained(folder)
    finally:
        form.generation_config = settings
    save_tokenizer(tokenizer, folder)
    (folder / "plan.json").write_text(plan.to_json(), encoding="utf-8")
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:  # readers older than transformers 5 look for it here
        config["rope_theta"] = rope["rope_theta"]
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    umask = os.umask(0)
    os.umask(umask)
    for file in folder.rglob("*"):  # safetensors writes files that only their owner can read
        if file.is_file():
            file.chmod(0o666 & ~umask)


def _valid_generation_config(settings):
    """``settings``, or a copy that says it samples: published models set a temperature without
    `do_sample`, which transformers reads with a warning and refuses to write."""
    try:
        settings.validate(strict=True)
    except ValueError:
        settings = copy.deepcopy(settings)
        settings.do_sample = True
    return settings


def _read_back(folder: Path, config, dtype: torch.dtype) -> nn.Module:
    """The model in ``folder``, by bipcore's own copy of its modelling file if it has one.

    Raises InputError where the two are not the same, byte for byte.
    """
    kind = AutoModelForCausalLM
    if is_pruned_type(config.model_type):
        kind = classes_of(config.model_type).model
        if (folder / MODELLING_FILE.name).read_bytes() != MODELLING_FILE.read_bytes():
            raise InputError(
                "The export was not kept: its modelling file, read back, is not the one written."
            )
    return kind.from_pretrained(folder, dtype=dtype, local_files_only=True)


@torch.no_grad()
def _compare(model: nn.Module, form: nn.Module, folder: Path) -> float:
    """Load ``folder`` and compare weights bit for bit, then logits; their largest difference."""
    again = _read_back(folder, form.config, form.dtype)
    written, read = form.state_dict(), again.state_dict()
    if written.keys() != read.keys() or not all(
        torch.equal(written[name].cpu(), read[name].cpu()) for name in written
    ):
        raise InputError("The export was not kept: its weights, read back, are not those written.")
    device = Adapter(model).input_device
    length = min(32, getattr(model.config, "max_position_embeddings", None) or 32)
    tokens = random_tokens(model, 2, length).to(device)
    with evaluation_mode(model):
        expected = model(input_ids=tokens, use_cache=False).logits.float().cpu()
    again = again.to(device).eval()
    logits = again(input_ids=tokens, use_cache=False).logits.float().cpu()
    scale = max(1.0, float(expected.abs().max()))
    difference = float((logits - expected).abs().max())
    if not difference <= _TOLERANCE.get(form.dtype, 2e-2) * scale:
        raise InputError(
            f"The export was not kept: its logits, read back, differ by {difference:.2g}."
        )
    return difference


def _write_manifest(folder: Path, facts: dict) -> None:
    files = {
        str(file.relative_to(folder)): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file()
    }
    manifest = {"format": FORMAT, **facts, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
