"""The first tokens of a long text, exactly as in the whole text, without reading all of it.

A text is cut between a letter and a space. Where no entry of the vocabulary has a space right
after a letter, no token reaches over the cut, whatever merges are tried: what is before it has the
same tokens alone. Where one has, or the text has no such place, the whole is tokenised.
"""

import re

from .calibration import tokenize

_ACROSS = re.compile("[A-Za-z][ \u2581\u0120]")
"""A letter and a space as texts, SentencePiece (U+2581) and byte-level BPE (U+0120) write it."""

_CUT = re.compile("(?<=[A-Za-z])(?= )")

_CHARACTERS = 6
"""Characters for each token at first; twice as many where they are too few."""


def first_tokens(tokenizer, text: str, count: int | None) -> list[int]:
    """At least the first ``count`` token ids of ``text``, all where it has fewer or ``count`` is
    None; no special tokens are added."""
    if count is None or len(text) <= _CHARACTERS * count or not _parts_at_spaces(tokenizer):
        return tokenize(tokenizer, text)
    size = _CHARACTERS * count
    while cut := _CUT.search(text, size):
        ids = tokenize(tokenizer, text[: cut.start()])
        if len(ids) >= count:
            return ids
        size = 2 * cut.start()
    return tokenize(tokenizer, text)


def _parts_at_spaces(tokenizer) -> bool:
    """Whether no token, those that were added to the vocabulary among them, has a space right
    after a letter."""
    return not any(map(_ACROSS.search, tokenizer.get_vocab()))
