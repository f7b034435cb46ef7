"""Calibration sets: N samples of T tokens, reproducible from their source and seed."""

import random
from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import InputError, check_seed
from .chats import as_texts
from .documents import Document
from .samples import CalibrationSet
from .texts import TextSource, find_text


def load_calibration(
    source: str, tokenizer, *, samples: int, seq_len: int, seed: int, text_field: str = ""
) -> CalibrationSet:
    """``samples`` windows of ``seq_len`` tokens from ``source`` (see `texts.find_text`).

    The rule: a continuous text (WikiText-2, PTB, a text file) is tokenised whole, cut into
    windows that do not overlap, and the seed draws among them. Documents (C4, a file of records,
    the built-in text) are shuffled with the seed, tokenised one by one, joined by the end-of-text
    token, and the first windows of the result are taken, so short documents are packed. No
    special tokens are added otherwise. ``text_field``: where the text of a record stands. Raises
    InputError when there is too little text.
    """
    if samples < 1 or seq_len < 2:
        raise InputError(
            f"A calibration set needs at least 1 sample of 2 tokens, not {samples} of {seq_len}."
        )
    check_seed(seed)
    text = find_text(source, purpose="calibration", field=text_field)
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
    for document in as_texts(_shuffled(text.read(), seed), tokenizer):
        found = tokenize(tokenizer, document)
        ids += found + ([end] if end is not None and found else [])
        if len(ids) >= samples * seq_len:
            return torch.tensor(ids[: samples * seq_len], dtype=torch.long).view(-1, seq_len)
    raise _too_little(text, len(ids), samples, seq_len)


def _shuffled(documents: Iterator[Document], seed: int, buffer: int = 10_000) -> Iterator[Document]:
    """The documents in seeded order, shuffled ``buffer`` at a time so that streams stay streams."""
    order = random.Random(seed)
    held: list[Document] = []
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
