"""Where two models differ: token by token over a text that both are given.

Each reads the same windows; at every token there are the two distributions of what comes next. How
far they are apart is KL(dense ‖ model), as the metric of that name counts it; beside it what either
thinks most likely, and how it ranks the token that really follows.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from ..models.batches import rows_for
from ..models.divergence import kl_divergence, positions_of
from ..models.finite import check_finite
from ..progress import Progress, silent, tracked
from .metrics.passes import logits_beside
from .metrics.texts import cut_windows

LIKELIEST = 5
"""So many of the likeliest next tokens are kept of each model."""


@dataclass(frozen=True, eq=False)
class Predictions:
    """What one model says comes after each of n tokens, on the CPU: the ids of the `LIKELIEST`
    next tokens and their probabilities (n, `LIKELIEST`), the rank from 1 of the token that
    follows, and its −log p in nats (n,). Where none follows in the window the rank is 0 and the
    loss nan."""

    likeliest: Tensor
    probabilities: Tensor
    rank: Tensor
    loss: Tensor


@dataclass(frozen=True, eq=False)
class Differences:
    """A text of n ``tokens`` (n,), after each of which the predictions of the dense model and of
    another are ``kl`` nats apart (n,), float32; and both predictions."""

    tokens: Tensor
    kl: Tensor
    dense: Predictions
    other: Predictions

    @property
    def agrees(self) -> Tensor:
        """Whether both find the same next token likeliest: bool (n,)."""
        return self.dense.likeliest[:, 0] == self.other.likeliest[:, 0]

    def part(self, start: int, stop: int) -> "Differences":
        """Those of the tokens from ``start`` to before ``stop``."""
        cut = slice(start, stop)
        both = (
            Predictions(*(getattr(one, field.name)[cut] for field in fields(Predictions)))
            for one in (self.dense, self.other)
        )
        return Differences(self.tokens[cut], self.kl[cut], *both)

    def passages(self, length: int, count: int) -> list[range]:
        """Of the passages of ``length`` tokens, one behind the other, of which the last may be
        shorter, the places of the ``count`` with the greatest mean divergence, that first."""
        means = torch.stack([part.double().mean() for part in self.kl.split(length)])
        order = means.argsort(descending=True, stable=True)[: max(count, 0)].tolist()
        places = range(len(self.kl))
        return [places[length * number : length * (number + 1)] for number in order]

    def worst(self, count: int) -> list[int]:
        """The places of the ``count`` tokens after which the models are furthest apart."""
        order = self.kl.argsort(descending=True, stable=True)
        return order[: max(count, 0)].tolist()


@torch.no_grad()
def differences(
    model: nn.Module,
    dense: nn.Module,
    tokens: Tensor,
    *,
    window: int,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> Differences:
    """Where ``model`` differs from ``dense`` on ``tokens`` (n,), in windows of ``window`` tokens of
    which the last may be shorter; ``batch_size`` of them at a time (by default
    `batches.rows_for`).

    Raises InputError for a window that the model cannot read, or predictions that are not finite.
    """
    tokens, report = tokens.reshape(-1), tracked(progress or silent)
    window = min(window, max(len(tokens), 1))
    batch_size = batch_size or rows_for(dense, window, logits=True)
    whole = len(tokens) // window * window
    runs = [cut_windows(dense, tokens[:whole], window)]
    if whole < len(tokens):
        runs.append(tokens[None, whole:])
    parts: list[Differences] = []
    for number, windows in enumerate(runs):
        how = {"batch_size": batch_size, "message": "Where the models differ"}
        with report.within(number * 0.95, 1.0 if number else 0.95) as within:
            found = logits_beside(model, dense, windows, progress=within, **how)
            with contextlib.closing(found) as batches:
                parts += [_of_batch(*batch) for batch in batches]
    joined = _joined(parts)
    check_finite(joined.kl, "A prediction", model)
    return joined


def _of_batch(tokens: Tensor, logits: Tensor, dense: Tensor) -> Differences:
    """Those of one batch (B, T), of logits (B, T, V)."""
    following = torch.full_like(tokens, -1)
    following[:, :-1] = tokens[:, 1:]
    apart, following = kl_divergence(logits, dense).flatten().cpu(), following.flatten()
    both = [_predictions(one, following.to(one.device)) for one in (dense, logits)]
    return Differences(tokens.flatten().cpu(), apart, *both)


def _predictions(logits: Tensor, following: Tensor) -> Predictions:
    """What logits (B, T, V) say, of which ``following`` (B·T,) is next; −1: nothing is."""
    pieces = positions_of(logits)
    parts = []
    for own, wanted in zip(pieces, following.split([len(one) for one in pieces]), strict=True):
        logs = own.float().log_softmax(-1)
        top = logs.topk(min(LIKELIEST, logs.shape[-1]))
        there = wanted >= 0
        of_next = logs.gather(-1, wanted.clamp(min=0)[:, None])
        rank = torch.where(there, 1 + (logs > of_next).sum(-1), 0)
        loss = torch.where(there, -of_next[:, 0], torch.nan)
        parts.append([one.cpu() for one in (top.indices, top.values.exp(), rank, loss)])
    return Predictions(*map(torch.cat, zip(*parts, strict=True)))


def _joined(parts: list[Differences]) -> Differences:
    def predictions(name: str) -> Predictions:
        found = [getattr(part, name) for part in parts]
        return Predictions(
            *(torch.cat([getattr(one, field.name) for one in found]) for field in _FIELDS)
        )

    tokens, kl = (torch.cat([getattr(part, name) for part in parts]) for name in ("tokens", "kl"))
    return Differences(tokens, kl, predictions("dense"), predictions("other"))


_FIELDS = fields(Predictions)


def pieces(tokens: Tensor, tokenizer) -> list[str]:
    """What each of tokens (n,) adds to the text before it: together they are the text."""
    ids, found = tokens.tolist(), []
    for place in range(len(ids)):
        start = max(place - _CONTEXT, 0)
        before, after = (tokenizer.decode(ids[start:end]) for end in (place, place + 1))
        found.append(after[len(before) :] if after.startswith(before) else after[-1:])
    return found


def rows(found: Differences, tokenizer, count: int) -> Iterator[dict]:
    """The ``count`` places where the models are furthest apart, as plain data: what has been read
    until there, what follows, and what either model thinks."""

    def text(ids) -> str:
        return tokenizer.decode([int(one) for one in ids])

    for place in found.worst(count):
        following = found.tokens[place + 1 : place + 2] if found.other.rank[place] else []
        yield {
            "position": place,
            "token": text(found.tokens[place : place + 1]),
            "kl": float(found.kl[place]),
            "before": text(found.tokens[max(place - _CONTEXT, 0) : place]),
            "next": text(following) if len(following) else None,
            "dense": _said(found.dense, place, text),
            "other": _said(found.other, place, text),
        }


_CONTEXT = 12  # tokens before one that are shown


def _said(one: Predictions, place: int, text) -> dict:
    ids, probabilities = one.likeliest[place], one.probabilities[place]
    follows = int(one.rank[place]) or None
    return {
        "likeliest": [
            {"token": text([token]), "probability": float(probability)}
            for token, probability in zip(ids, probabilities, strict=True)
        ],
        "rank_of_next": follows,
        "loss": float(one.loss[place]) if follows else None,
    }
