"""SlimGPT's selection (arXiv 2412.18110): OBS in groups, heads priced by a grouped Cholesky factor.

From the paper: a head's price is taken from the Cholesky factor of its own part of the inverse,
without refitting its columns one by one, and channels go many at a time, fewer and fewer. Ours:
the scores are made once for every sparsity, so the groups shrink with the channels that are left
instead of those still to go; within a group the channels stand in the order of their prices; the
ridge; and one query head of every KV group at a time where they share. What the paper does beside
the selection is the preset of the same name.
"""

from .base import Criterion, CurveSettings, Style
from .obs import channel_scores, memory

CRITERION = Criterion(
    name="slimgpt",
    title="SlimGPT",
    formula="Σ_i W_ij² / L_jj² at its turn, L of the inverse second moments, in groups",
    reference="https://arxiv.org/abs/2412.18110",
    needs="second moments",
    style=Style("#56B4E9", "longdash", "triangle-down"),
    passes=lambda shape: 1,
    score_curves=channel_scores,
    curves=CurveSettings(ridge=0.01, grouped=True),
    options={"ridge": 0.01},
    memory=memory,
    allocation="log",
    compensation="least-squares",
)
