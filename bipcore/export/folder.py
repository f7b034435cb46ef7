"""A model's folder as `transformers` writes and loads it."""

import copy
import json
from pathlib import Path

from torch import nn

from ..models.tokenizer import save_tokenizer


def write_folder(form: nn.Module, tokenizer, folder: Path) -> None:
    """Write the model ``form`` and its tokenizer to ``folder``."""
    settings = form.generation_config
    form.generation_config = _valid_generation_config(settings)
    try:
        form.save_pretrained(folder)
    finally:
        form.generation_config = settings
    save_tokenizer(tokenizer, folder)
    config_file = folder / "config.json"
    config = json.loads(config_file.read_text())
    rope = config.get("rope_parameters") or {}
    if "rope_theta" in rope:  # readers older than transformers 5 look for it here
        config["rope_theta"] = rope["rope_theta"]
        config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def _valid_generation_config(settings):
    """``settings``, or a copy that says it samples: published models set a temperature without
    `do_sample`, which transformers reads with a warning and refuses to write."""
    try:
        settings.validate(strict=True)
    except ValueError:
        settings = copy.deepcopy(settings)
        settings.do_sample = True
    return settings


def loading_code(folder: str, *, trust: bool = False) -> str:
    """The lines of Python by which stock `transformers` loads the model in ``folder``.

    ``trust``: it runs the modelling file of the folder.
    """
    trusted = ", trust_remote_code=True" if trust else ""
    return (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        f'model = AutoModelForCausalLM.from_pretrained("{folder}"{trusted})\n'
        f'tokenizer = AutoTokenizer.from_pretrained("{folder}"{trusted})'
    )
