"""Calibration sets: N samples of T tokens, reproducible from their source and seed."""

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InputError, check_seed
from .texts import TextSource, find_text

_INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Token ids to calibrate on: ``tokens`` is a LongTensor (N, T) on the CPU.

    ``source`` and ``split`` name the text, ``seed`` chose the samples. Two sets are the same
    where their `fingerprint` is.
    """

    tokens: Tensor
    source: str = "tokens"
    split: str = ""
    seed: int | None = None

    @classmethod
    def from_tokens(cls, tokens: Tensor, *, source: str = "tokens") -> "CalibrationSet":
        """A set of the user's own token ids, an integer tensor (N, T) or (T,).

        Raises InputError when it is empty, not integer, or of another rank.
        """
        integer = isinstance(tokens, Tensor) and tokens.dtype in _INTEGERS
        if not integer or tokens.ndim not in (1, 2):
            raise InputError("Calibration tokens are an integer tensor of shape (N, T).")
        tokens = torch.atleast_2d(tokens).detach().to("cpu", torch.long).contiguous()
        if tokens.numel() == 0:
            raise InputError("The calibration set is empty; give at least one token.")
        return cls(tokens=tokens, source=source)

    @property
    def samples(self) -> int:
        """N."""
        return self.tokens.shape[0]

    @property
    def seq_len(self) -> int:
        """T, in tokens."""
        return self.tokens.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits of the SHA-256 of the shape and the token ids."""
        digest = hashlib.sha256(repr(tuple(self.tokens.shape)).encode())
        digest.update(self.tokens.numpy().astype("<i8").tobytes())
        return digest.hexdigest()[:16]


def load_calibration(
    source: str, tokenizer, *, samples: int, seq_len: int, seed: int
) -> CalibrationSet:
    """``samples`` windows of ``seq_len`` tokens from ``source`` (see `texts.find_text`).

    The rule: a continuous text (WikiText-2, PTB, a text file) is tokenised whole, cut into
    windows that do not overlap, and the seed draws among them. Documents (C4, a JSONL file, the
    built-in text) are shuffled with the seed, tokenised one by one, joined by the end-of-text
    token, and the first windows of the result are taken, so short documents are packed. No
    special tokens are added otherwise. Raises InputError when there is too little text.
    """
    if samples < 1 or seq_len < 2:
        raise InputError(
            f"A calibration set needs at least 1 sample of 2 tokens, not {samples} of {seq_len}."
        )
    check_seed(seed)
    text = find_text(source, purpose="calibration")
    if text.continuous:
        windows = _draw_windows(text, tokenizer, samples, seq_len, seed)
    else:
        windows = _pack_documents(text, tokenizer, samples, seq_len, seed)
    return CalibrationSet(tokens=windows, source=text.name, split=text.split, seed=seed)


def tokenize(tokenizer, text: str, *, special_tokens: bool = False) -> list[int]:
    """The token ids of ``text``, without the warning for texts longer than the model's limit."""
    return tokenizer(text, add_special_tokens=special_tokens, verbose=False)["input_ids"]


def _draw_windows(text: TextSource, tokenizer, samples: int, seq_len: int, seed: int) -> Tensor:
    ids = [token for part in text.read() for token in tokenize(tokenizer, part)]
    available = len(ids) // seq_len
    if available < samples:
        raise _too_little(text, len(ids), samples, seq_len)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(available, generator=generator)[:samples]
    windows = torch.tensor(ids[: available * seq_len], dtype=torch.long).view(-1, seq_len)
    return windows[chosen].clone()


def _pack_documents(text: TextSource, tokenizer, samples: int, seq_len: int, seed: int) -> Tensor:
    end = tokenizer.eos_token_id
    ids: list[int] = []
    for document in _shuffled(text.read(), seed):
        ids += tokenize(tokenizer, document) + ([end] if end is not None else [])
        if len(ids) >= samples * seq_len:
            return torch.tensor(ids[: samples * seq_len], dtype=torch.long).view(-1, seq_len)
    raise _too_little(text, len(ids), samples, seq_len)


def _shuffled(documents: Iterator[str], seed: int, buffer: int = 10_000) -> Iterator[str]:
    """The documents in seeded order, shuffled ``buffer`` at a time so that streams stay streams."""
    order = random.Random(seed)
    held: list[str] = []
    for document in documents:
        held.append(document)
        if len(held) == buffer:
            order.shuffle(held)
            yield from held
            held = []
    order.shuffle(held)
    yield from held


def _too_little(text: TextSource, tokens: int, samples: int, seq_len: int) -> InputError:
    return InputError(
        f"The text {text.name!r} ({text.split}) has {tokens:,} tokens, but {samples} samples of "
        f"{seq_len} need {samples * seq_len:,}; ask for fewer or shorter samples."
    )
