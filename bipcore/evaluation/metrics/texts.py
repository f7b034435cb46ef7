"""A test text as tokens, and in windows."""

import torch
from torch import Tensor, nn

from ...data.beginnings import TEXT, WINDOW, before_text, before_window
from ...data.chats import as_texts
from ...data.first_tokens import first_tokens
from ...data.texts import find_text
from ...errors import InputError
from ...models.running import check_vocabulary


def load_test_tokens(
    source: str,
    tokenizer,
    *,
    max_tokens: int | None = None,
    text_field: str = "",
    beginning: str = TEXT,
    window: int | None = None,
) -> Tensor:
    """The test text of ``source`` as one row of token ids, LongTensor (n,).

    WikiText-2 and PTB are joined as published perplexities join them; documents (C4, a file of
    records, whose text stands under ``text_field``) by a blank line. ``beginning`` says where the
    beginning-of-text token stands: "none", "text" (once, at the start, as the tokenizer has it), or
    "window": at the start of every ``window`` tokens, of which it is one. ``max_tokens`` keeps the
    first so many, and hardly more are made. Raises InputError.
    """
    if max_tokens is not None and max_tokens < 2:
        raise InputError(f"Perplexity needs at least 2 tokens, not {max_tokens}.")
    text = find_text(source, purpose="test", field=text_field)
    whole = "\n\n".join(as_texts(text.read(), tokenizer))
    return as_tokens(whole, tokenizer, max_tokens=max_tokens, beginning=beginning, window=window)


def as_tokens(
    whole: str, tokenizer, *, max_tokens: int | None, beginning: str, window: int | None
) -> Tensor:
    """The first ``max_tokens`` tokens of a text (n,), begun as `load_test_tokens` says."""
    ids = first_tokens(tokenizer, whole, max_tokens)
    if beginning == WINDOW:
        return torch.tensor(_begun(ids, before_window(tokenizer), window)[:max_tokens])
    before = before_text(tokenizer) if beginning == TEXT else []
    return torch.tensor([*before, *ids][:max_tokens], dtype=torch.long)


def _begun(ids: list[int], first: list[int], window: int) -> list[int]:
    """``ids`` with ``first`` before every so many of them that both fill a window."""
    own = window - len(first)
    if own < 1:
        raise InputError(f"Windows of {window} tokens have no room for a text; make them longer.")
    parts = (ids[start : start + own] for start in range(0, len(ids), own))
    return [token for part in parts for token in (*first, *part)]


def cut_windows(model: nn.Module, tokens: Tensor, window: int) -> Tensor:
    """The whole windows in ``tokens`` (n,), a tensor (N, window); raises InputError."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if window < 2 or (limit and window > limit):
        raise InputError(f"The window is from 2 to the model's {limit} positions, not {window}.")
    check_vocabulary(model, tokens)
    tokens = tokens.reshape(-1)
    whole = len(tokens) // window
    if whole == 0:
        raise InputError(
            f"The text has {len(tokens):,} tokens, fewer than one window of {window}; "
            "give more text or a smaller window."
        )
    return tokens[: whole * window].view(whole, window)
