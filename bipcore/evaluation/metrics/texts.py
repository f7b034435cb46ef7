"""A test text as tokens, and in windows."""

import torch
from torch import Tensor, nn

from ...data.calibration import tokenize
from ...data.chats import as_texts
from ...data.texts import find_text
from ...errors import InputError
from ...models.running import check_vocabulary


def load_test_tokens(
    source: str, tokenizer, *, max_tokens: int | None = None, text_field: str = ""
) -> Tensor:
    """The test text of ``source`` as one row of token ids, LongTensor (n,).

    WikiText-2 and PTB are joined as published perplexities join them; documents (C4, a file of
    records, whose text stands under ``text_field``) by a blank line. The tokenizer adds its
    beginning-of-text token once, at the start. ``max_tokens`` keeps the first so many. Raises
    InputError.
    """
    if max_tokens is not None and max_tokens < 2:
        raise InputError(f"Perplexity needs at least 2 tokens, not {max_tokens}.")
    text = find_text(source, purpose="test", field=text_field)
    whole = "\n\n".join(as_texts(text.read(), tokenizer))
    ids = tokenize(tokenizer, whole, special_tokens=True)
    return torch.tensor(ids[:max_tokens], dtype=torch.long)


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
