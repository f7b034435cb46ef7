"""Perplexity."""

import torch
from torch import Tensor, nn

from ..data.calibration import tokenize
from ..data.texts import find_text
from ..errors import InputError
from ..models.adapters import Adapter
from ..models.running import evaluation_mode, exp_of, negative_log_likelihood
from ..progress import Progress, silent
from ..store.kinds import Kind

EVALUATIONS: Kind[dict] = Kind("evaluations", "figures of a model on a test text")


def load_test_tokens(source: str, tokenizer, *, max_tokens: int | None = None) -> Tensor:
    """The test text of ``source`` as one row of token ids, LongTensor (n,).

    WikiText-2 and PTB are joined as published perplexities join them; documents (C4, JSONL)
    by a blank line. The tokenizer adds its beginning-of-text token once, at the start.
    ``max_tokens`` keeps the first so many. Raises InputError.
    """
    if max_tokens is not None and max_tokens < 2:
        raise InputError(f"Perplexity needs at least 2 tokens, not {max_tokens}.")
    text = find_text(source, purpose="test")
    ids = tokenize(tokenizer, "\n\n".join(text.read()), special_tokens=True)
    return torch.tensor(ids[:max_tokens], dtype=torch.long)


@torch.no_grad()
def perplexity(
    model: nn.Module,
    tokens: Tensor,
    *,
    window: int,
    batch_size: int = 1,
    progress: Progress | None = None,
) -> float:
    """exp of the mean negative log-likelihood of ``tokens`` (n,), in windows of ``window`` tokens.

    The windows do not overlap; each predicts its tokens but the first from those before them
    in the window; the tokens after the last whole window are left out. A tensor (N, T) is read
    as one row. Raises InputError when there are fewer tokens than one window, or the window is
    longer than the model's positions.
    """
    windows = cut_windows(model, tokens, window)
    report = progress or silent
    device = Adapter(model).input_device
    total, count = 0.0, 0
    with evaluation_mode(model):
        for start in range(0, len(windows), batch_size):
            report(start / len(windows), f"Perplexity, window {window}")
            batch = windows[start : start + batch_size].to(device)  # (B, window)
            logits = model(input_ids=batch, use_cache=False).logits  # (B, window, vocabulary)
            total += negative_log_likelihood(logits, batch)
            count += batch.shape[0] * (window - 1)
    report(1.0, f"Perplexity, window {window}")
    mean = total / count
    return exp_of(mean)


def cut_windows(model: nn.Module, tokens: Tensor, window: int) -> Tensor:
    """The whole windows in ``tokens`` (n,), a tensor (N, window); raises InputError."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if window < 2 or (limit and window > limit):
        raise InputError(f"The window is from 2 to the model's {limit} positions, not {window}.")
    tokens = tokens.reshape(-1)
    whole = len(tokens) // window
    if whole == 0:
        raise InputError(
            f"The text has {len(tokens):,} tokens, fewer than one window of {window}; "
            "give more text or a smaller window."
        )
    return tokens[: whole * window].view(whole, window)
