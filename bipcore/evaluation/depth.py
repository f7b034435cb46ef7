"""Where in its depth a model departs from the dense one, and whether it comes back.

After every block two things are compared: the hidden states themselves, and what the rest of the
model (final norm and head) would make of them as they are, the logit lens (nostalgebraist,
"interpreting GPT: the logit lens", 2020).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..models.adapters import Adapter
from ..models.divergence import kl_divergence
from ..models.running import Walk, evaluation_mode
from ..progress import Progress, silent

MOST_TOKENS = 256
"""So many tokens of a text are enough, as the head is run after every block."""


@dataclass(frozen=True)
class Depth:
    """After every block, over the same tokens: ``distance``, the mean of 1 − cos(h, h_dense) of the
    hidden states, from 0 to 2, and ``divergence``, the mean of KL(dense ‖ model) of the logit lens,
    in nats a token."""

    distance: tuple[float, ...]
    divergence: tuple[float, ...]
    tokens: int


@torch.no_grad()
def divergence_by_depth(
    model: nn.Module, dense: nn.Module, tokens: Tensor, *, progress: Progress | None = None
) -> Depth:
    """`Depth` of ``model`` on token ids (B, T), all in one batch."""
    report, both = progress or silent, [Adapter(dense), Adapter(model)]
    distances, divergences = [], []
    with evaluation_mode(dense), evaluation_mode(model):
        walks = [Walk(adapter, tokens, batch_size=len(tokens)) for adapter in both]
        for index in walks[0].blocks:
            report(index / len(walks[0].blocks), "Comparing the models block by block")
            theirs, own = (_after(walk, index).float() for walk in walks)
            apart = 1 - functional.cosine_similarity(own.to(theirs.device), theirs, dim=-1)
            distances.append(max(float(apart.mean()), 0.0))
            (_, seen), (_, said) = (next(walk.logits()) for walk in walks)
            divergences.append(float(kl_divergence(said.to(seen.device), seen).mean()))
    report(1.0, "Compared")
    return Depth(tuple(distances), tuple(divergences), tokens.numel())


def _after(walk: Walk, index: int) -> Tensor:
    """Go on behind block ``index``; what leaves it (B, T, d)."""
    found: list[Tensor] = []
    walk.step(index, watch=lambda before, after: found.append(after))
    return found[0]
