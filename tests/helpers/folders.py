"""Tiny models as folders on disk, and what is done to such folders."""

import json
from pathlib import Path

import torch
import transformers as tf
from tokenizers import decoders
from torch import nn

from tests.helpers.tiny import CONFIGS, byte_tokenizer

VOCABULARY = 260


def byte_model(name: str = "llama", *, seed: int = 0) -> nn.Module:
    """A tiny model of the family ``name`` that can read what `text_tokenizer` writes."""
    config = CONFIGS[name]()
    config.vocab_size = VOCABULARY
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = tf.AutoModelForCausalLM.from_config(config).eval()
        for parameter in model.parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.2)
    return model


def text_tokenizer() -> tf.PreTrainedTokenizerFast:
    """A token for every byte, which also turns ids back into text."""
    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def model_folder(folder: Path, name: str = "llama", *, seed: int = 0) -> Path:
    """``folder`` with a tiny model and its tokenizer in it."""
    byte_model(name, seed=seed).save_pretrained(folder)
    text_tokenizer().save_pretrained(folder)
    return folder


def edit_json(file: Path, **fields) -> None:
    """Overwrite some fields of a JSON object in a file."""
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def without_checksums(export: Path) -> None:
    """Make an export what versions before there were checksums wrote, whose files may change."""
    manifest = json.loads((export / "bipcore.json").read_text())
    kept = {name: said for name, said in manifest.items() if name not in ("sha256", "digest")}
    (export / "bipcore.json").write_text(json.dumps(kept))


def tree(folder: Path) -> list[str]:
    """Everything below ``folder``, as sorted relative paths."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def truncate(file: Path, *, by: int = 100) -> None:
    """Cut the last bytes of a file off."""
    file.write_bytes(file.read_bytes()[:-by])
