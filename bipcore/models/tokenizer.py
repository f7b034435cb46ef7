"""The tokenizer of a model folder: read, and written."""

from pathlib import Path

from transformers import AutoTokenizer

from ..errors import InputError, reason_of


def load_tokenizer(name: str, folder: Path, config):
    """The tokenizer in ``folder``, of the model ``name``; raises InputError."""
    options = {"config": config, "local_files_only": True, "trust_remote_code": False}
    try:
        return AutoTokenizer.from_pretrained(folder, **options)
    except Exception as error:  # transformers lets many kinds through
        raise InputError(f"{name} has no usable tokenizer: {reason_of(error)}.") from None


def save_tokenizer(tokenizer, folder: Path) -> None:
    """Write the tokenizer; its library's bare Exception on a full disk becomes an OSError."""
    try:
        tokenizer.save_pretrained(folder)
    except OSError:
        raise
    except Exception as error:
        raise OSError(reason_of(error)) from error
