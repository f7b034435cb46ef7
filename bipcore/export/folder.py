"""A model's folder as `transformers` writes and loads it."""

import copy
from pathlib import Path

from torch import nn

from ..models.streaming import is_streamed
from ..models.tokenizer import save_tokenizer
from .older_readers import speak_to_older_readers
from .public import quoted
from .streamed import save_streamed


def write_folder(form: nn.Module, tokenizer, folder: Path) -> None:
    """Write the model ``form`` and its tokenizer to ``folder``."""
    settings = form.generation_config
    form.generation_config = _valid_generation_config(settings)
    try:
        if is_streamed(form):
            save_streamed(form, folder)
        else:
            form.save_pretrained(folder)
    finally:
        form.generation_config = settings
    save_tokenizer(tokenizer, folder)
    speak_to_older_readers(folder, form, tokenizer)


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
        f"model = AutoModelForCausalLM.from_pretrained({quoted(folder)}{trusted})\n"
        f"tokenizer = AutoTokenizer.from_pretrained({quoted(folder)}{trusted})"
    )
