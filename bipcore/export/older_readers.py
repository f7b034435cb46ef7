"""What an export says in the words of readers older than transformers 5, and what they cannot read.

It is about the fields of config.json and tokenizer_config.json: the readers of now come to the same
model with what is added here and without.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..models.adapters import Adapter
from ..models.families import base_type, check_supported

OLDEST = "4.57"
"""The oldest transformers that exports are read with."""
_ROPES = ("default", "linear", "dynamic", "yarn", "longrope", "llama3")
"""The kinds of rotary embedding that it knows."""
_ONE_BASE = ("olmo3",)
"""The families whose blocks with a window had no base of their own for it."""
_LOADING = (
    "_commit_hash",
    "_from_auto",
    "auto_map",
    "backend",
    "cache_dir",
    "config",
    "force_download",
    "gguf_file",
    "is_local",
    "local_files_only",
    "name_or_path",
    "proxies",
    "revision",
    "special_tokens_map_file",
    "subfolder",
    "token",
    "tokenizer_file",
    "trust_remote_code",
    "use_fast",
)
"""What was said when a tokenizer was loaded, and is no part of it; nor is its code, which is not
exported."""


def speak_to_older_readers(folder: Path, form: nn.Module, tokenizer) -> None:
    """Say in ``folder`` what older readers look for of the model ``form`` and its tokenizer."""
    width = {"head_dim": Adapter(form).blocks[0].head_dim}
    _edit(
        folder / "config.json",
        lambda said: with_older_fields(_without_code(folder, said) | width),
    )
    _edit(folder / "tokenizer_config.json", lambda said: with_older_class(said, tokenizer))


def _without_code(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json without classes of a checkpoint's own code, which does not come
    with an export; those of the modelling file that does stay."""
    named = config.get("auto_map") or {}
    here = {
        name: place
        for name, place in named.items()
        if isinstance(place, str) and (folder / f"{place.partition('.')[0]}.py").is_file()
    }
    kept = {name: value for name, value in config.items() if name != "auto_map"}
    return kept | ({"auto_map": here} if here else {})


def with_older_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a config.json, and beside them those that older readers look for."""
    older = {"torch_dtype": config["dtype"]} if config.get("dtype") else {}
    family = check_supported(config["model_type"])
    rope, local = ropes_of(config)
    if config.get("attn_logit_softcapping"):  # else theirs leaves it out, without a word
        older["_attn_implementation_internal"] = "eager"
    if local:
        older["rope_local_base_freq"] = local["rope_theta"]
    if "rope_theta" in rope:
        older |= dict.fromkeys(("rope_theta", family.rope_base_field), rope["rope_theta"])
    if (share := rope.get("partial_rotary_factor")) is not None:
        older |= dict.fromkeys(("partial_rotary_factor", family.rope_share_field), share)
    kind = _kind(rope)
    if kind != "default":
        said = {name: rope[name] for name in rope if name not in ("rope_theta", _SHARE)}
        older["rope_scaling"] = said | {"rope_type": kind, "type": kind}
    if kind == "longrope":
        older |= _longrope(config, rope, older["rope_scaling"], family.longrope_fields)
    return {**config, **older}


_SHARE = "partial_rotary_factor"


def ropes_of(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """The rotary embedding of a model, and that of its blocks with a window where it is another,
    as in Gemma 3."""
    rope = config.get("rope_parameters") or {}
    if "full_attention" in rope:
        return rope["full_attention"], rope["sliding_attention"]
    return rope, {}


def _kind(rope: Mapping[str, Any]) -> str:
    return rope.get("rope_type", "default")


def _longrope(
    config: Mapping[str, Any], rope: Mapping[str, Any], scaling: dict, only: tuple[str, ...]
) -> dict[str, Any]:
    """How older readers want to be told of longrope: the length trained with beside the scaling,
    and in it the factor of the attention, which else they compute in another way; for a class that
    insists on them, no more than the fields ``only``."""
    original = rope["original_max_position_embeddings"]
    if only and not {"factor", "attention_factor"} & rope.keys():
        scaling = {name: scaling[name] for name in only}
    elif not only and rope.get("attention_factor") is None:
        factor = rope.get("factor") or config["max_position_embeddings"] / original
        more = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        scaling = scaling | {"attention_factor": more}
    return {"rope_scaling": scaling, "original_max_position_embeddings": original}


def with_older_class(said: Mapping[str, Any], tokenizer) -> dict[str, Any]:
    """The fields of a tokenizer_config.json without what was said when it was loaded; all that a
    fast one does stands in its tokenizer.json, which a class of an older name reads."""
    kept = {name: value for name, value in said.items() if name not in _LOADING}
    if not tokenizer.is_fast:
        return kept
    if isinstance(kept.get("extra_special_tokens"), list):
        kept["additional_special_tokens"] = kept.pop("extra_special_tokens")
    return kept | {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": tokenizer.clean_up_tokenization_spaces,
        "model_input_names": list(tokenizer.model_input_names),
        "padding_side": tokenizer.padding_side,
    }


def readers_of(folder: Path) -> str:
    """The versions of transformers that read the model in ``folder``, and why no older ones; ""
    where it has no config.json."""
    file = folder / "config.json"
    if not file.is_file():
        return ""
    reason = too_new(json.loads(file.read_text()))
    return f"transformers 5 or later: {reason}" if reason else f"transformers {OLDEST} or later."


def too_new(config: Mapping[str, Any]) -> str | None:
    """Why older readers cannot read the model of a config.json, in a sentence; None if they can."""
    family = check_supported(config["model_type"])
    if not family.known_before_5:
        return f"earlier ones do not know {family.title}."
    rope, local = ropes_of(config)
    if _kind(rope) not in _ROPES:
        return f"earlier ones do not know rotary embeddings of the kind {_kind(rope)}."
    one_base = local and base_type(config["model_type"]) in _ONE_BASE
    if one_base and local["rope_theta"] != rope["rope_theta"]:
        return "earlier ones have one base of the rotary embeddings of all blocks."
    if _kind(local) != "default":
        return "earlier ones cannot scale the rotary embedding of blocks with a window."
    scaling = config.get("rope_scaling") or {}
    if family.longrope_fields and len(scaling) > len(family.longrope_fields):
        return "earlier ones do not know a factor beside the lists of longrope."
    return None


def _edit(file: Path, change) -> None:
    said = change(json.loads(file.read_text(encoding="utf-8")))
    text = json.dumps(said, indent=2, sort_keys=True, ensure_ascii=False)
    file.write_text(text + "\n", encoding="utf-8")
