"""Calibration sets: N samples of T tokens, reproducible from their source and seed."""

import random
from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import InputError, check_seed
from .beginnings import NONE, TEXT, WINDOW, before_text, before_window, said_beginning
from .chats import as_texts
from .documents import Document
from .mixtures import counts_of, mixed, parts_of
from .samples import CalibrationSet
from .texts import TextSource, find_text


def load_calibration(
    source: str,
    tokenizer,
    *,
    samples: int,
    seq_len: int,
    seed: int,
    text_field: str = "",
    beginning: str = NONE,
) -> CalibrationSet:
    """``samples`` windows of ``seq_len`` tokens from ``source``: a text (see `texts.find_text`), or
    several in stated shares (``c4:0.7,wikitext2:0.3``), each drawn by itself, in mixed order.

    The rule: a continuous text (WikiText-2, PTB, a text file) is tokenised whole, cut into
    windows that do not overlap, and the seed draws among them. Documents (C4, a file of records,
    the built-in text) are shuffled with the seed, tokenised one by one, joined by the end-of-text
    token, and the first windows of the result are taken, so short documents are packed.
    ``text_field``: where the text of a record stands. ``beginning``: which texts or samples begin
    with the beginning-of-text token, "none", "text" (each document as the tokenizer begins it) or
    "window" (each sample, of whose T tokens it is one). No special tokens are added otherwise.
    Raises InputError when there is too little text.
    """
    if samples < 1 or seq_len < 2:
        raise InputError(
            f"A calibration set needs at least 1 sample of 2 tokens, not {samples} of {seq_len}."
        )
    check_seed(seed)
    if parts := parts_of(source):
        settings = {"seq_len": seq_len, "seed": seed, "text_field": text_field}
        sets = [
            load_calibration(part.source, tokenizer, samples=count, beginning=beginning, **settings)
            for part, count in zip(parts, counts_of(parts, samples), strict=True)
        ]
        return mixed(source, sets, seed)
    text = find_text(source, purpose="calibration", field=text_field)
    first = before_window(tokenizer) if beginning == WINDOW else []
    own = seq_len - len(first)  # of the text's tokens in a sample
    if own < 1:
        raise InputError(f"Samples of {seq_len} tokens have no room for a text; make them longer.")
    before = before_text(tokenizer) if beginning == TEXT else []
    cut = _draw_windows if text.continuous else _pack_documents
    windows = begun(cut(text, tokenizer, samples, own, seed, before), first)
    said = said_beginning(beginning, tokenizer)
    return CalibrationSet(windows, text.name, text.split, seed, said)


def begun(windows: Tensor, first: list[int]) -> Tensor:
    """``windows`` (N, T) with the token ids ``first`` (p,) before each: (N, p + T)."""
    return torch.cat([torch.tensor(first, dtype=torch.long).expand(len(windows), -1), windows], 1)


def tokenize(tokenizer, text: str, *, special_tokens: bool = False) -> list[int]:
    """The token ids of ``text``, without the warning for texts longer than the model's limit."""
    return tokenizer(text, add_special_tokens=special_tokens, verbose=False)["input_ids"]


def _draw_windows(
    text: TextSource, tokenizer, samples: int, seq_len: int, seed: int, before: list[int]
) -> Tensor:
    ids = before + [token for part in text.read() for token in tokenize(tokenizer, part)]
    available = len(ids) // seq_len
    if available < samples:
        raise _too_little(text, len(ids), samples, seq_len)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(available, generator=generator)[:samples]
    windows = torch.tensor(ids[: available * seq_len], dtype=torch.long).view(-1, seq_len)
    return windows[chosen].clone()


def _pack_documents(
    text: TextSource, tokenizer, samples: int, seq_len: int, seed: int, before: list[int]
) -> Tensor:
    end = tokenizer.eos_token_id
    ids: list[int] = []
    for document in as_texts(_shuffled(text.read(), seed), tokenizer):
        found = tokenize(tokenizer, document)
        ids += [*before, *found, *([end] if end is not None else [])] if found else []
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
