"""Making up for what was cut: new output projections from statistics of the dense model."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..criteria.moments import SecondMoments
from ..criteria.statistics import Statistics
from ..errors import InputError
from ..models.adapters import Adapter, Block
from ..models.streaming import name_in, present, put, stream_of
from ..specs import COMPENSATIONS
from ..store.scratch import Scratch
from .plan import BlockPlan, PruningPlan
from .refit import TOKENS_A_CHANNEL, refit, refit_held_out, wide


@torch.no_grad()
def compensate(
    pruned: nn.Module,
    dense: nn.Module,
    plan: PruningPlan,
    kind: str,
    *,
    statistics: Statistics | None = None,
    moments: SecondMoments | None = None,
    ridge: float | None = None,
) -> nn.Module:
    """Change `o_proj` and `down_proj` of ``pruned`` so that its blocks' outputs stay closer.

    ``pruned`` is ``dense`` with ``plan`` applied, and is returned. ``kind``: "none"; "bias" adds
    Σ_j mean(X_j)·W_:j over the removed inputs j (FLAP, arXiv 2312.11983), from ``statistics``;
    "least-squares" refits the columns that stay, from ``moments``, with the ``ridge`` (see `refit`)
    that does best on the tokens held out of them where none is given. ``dense`` and the tensors
    shared with it are not touched. Raises InputError.
    """
    if kind not in COMPENSATIONS or kind == "auto":
        have = ", ".join(COMPENSATIONS[1:])
        raise InputError(f"There is no compensation {kind!r}; there are {have}.")
    if kind == "none":
        return pruned
    if (statistics if kind == "bias" else moments) is None:
        needs = "statistics" if kind == "bias" else "second moments"
        raise InputError(f"The compensation {kind!r} needs {needs}; collect them first.")
    blocks = zip(Adapter(pruned).blocks, Adapter(dense).blocks, plan.blocks, strict=True)
    stream = stream_of(pruned)
    scratch = Scratch(stream.room) if stream else None
    for index, (block, before, keep) in enumerate(blocks):
        sources = {"statistics": statistics, "moments": moments, "ridge": ridge}
        changes = made_up(before, index, keep, kind, **sources)
        change(block, changes, scratch, f"block-{index}")
    return pruned


@torch.no_grad()
def made_up(
    before: Block,
    index: int,
    keep: BlockPlan,
    kind: str,
    *,
    statistics: Statistics | None = None,
    moments: SecondMoments | None = None,
    ridge: float | None = None,
) -> dict[tuple[str, str], Tensor]:
    """The new weights and biases of block ``index``, ``before`` it is cut down to ``keep``, by
    their sites and kinds, as `compensate` has them."""
    changes: dict[tuple[str, str], Tensor] = {}
    if kind == "none":
        return changes
    with present(before.module):
        for site, kept in _kept_inputs(before, keep).items():
            old = before.sites[site]
            if len(kept) == old.in_features:
                continue
            if kind == "bias":
                mean = getattr(statistics.blocks[index], site).mean
                changes[site, "bias"] = _with_missing(old, mean, kept)
            elif len(kept):
                fitted = _refitted(old.weight, moments, (index, site), kept, ridge)
                changes[site, "weight"] = fitted
    return changes


def change(
    block: Block,
    changes: Mapping[tuple[str, str], Tensor],
    scratch: Scratch | None = None,
    label: str = "",
) -> None:
    """Give the parameters of ``block``, by site and kind, other values; those of a streamed model
    are written to ``scratch``."""
    resting = {}
    for (site, kind), values in changes.items():
        linear = block.sites[site]
        if scratch is None:
            setattr(linear, kind, _parameter(values, linear.weight))
        else:
            name = f"{name_in(block.module, linear)}.{kind}"
            resting[name] = values.to(linear.weight.dtype).cpu()
    if resting:
        put(block.module, resting, file=scratch.save(label, resting), owner=scratch)


def _refitted(
    weight: Tensor,
    moments: SecondMoments,
    place: tuple[int, str],
    kept: Tensor,
    ridge: float | None,
) -> Tensor:
    """The columns that stay of one projection, refitted."""
    if ridge is not None:
        return refit(weight, moments.of(*place), kept, ridge=ridge)
    given = moments.sample(*place)
    more = {"held_out": given.held_out, "tokens": given.tokens}
    return refit_held_out(weight, given.moments, kept, **more)[0]


def too_few_tokens(plan: PruningPlan, tokens: int) -> str | None:
    """A sentence where ``tokens`` calibration tokens are few for the least squares of ``plan``: as
    many unknowns as inputs stay are fitted to them. None where they are enough."""
    if not plan.realised:
        return None
    widths = [
        max(len(keep.heads) * plan.shape.head_dim, len(keep.channels)) for keep in plan.blocks
    ]
    wanted = TOKENS_A_CHANNEL * max(widths)
    if tokens >= wanted:
        return None
    return (
        f"Least squares refits up to {max(widths):,} inputs of a projection from {tokens:,} "
        f"calibration tokens, which is few; about {wanted:,} tokens would do (more or longer "
        "samples)."
    )


def _kept_inputs(block: Block, keep) -> dict[str, Tensor]:
    """The inputs of o and of down that stay, by site."""
    heads, width = torch.tensor(keep.heads, dtype=torch.long), block.head_dim
    inputs = (heads[:, None] * width + torch.arange(width)).reshape(-1)
    return {"o": inputs, "down": torch.tensor(keep.channels, dtype=torch.long)}


def missing_mean(weight: Tensor, mean: Tensor, kept: Tensor) -> Tensor:
    """Σ_j mean_j·W_:j over the inputs j that are not kept: (d,), of W (d, n) and mean (n,)."""
    weight = wide(weight)
    gone = torch.ones(len(mean), dtype=torch.bool)
    gone[kept] = False
    return weight[:, gone.to(weight.device)] @ mean[gone].to(weight)


def _with_missing(linear: nn.Linear, mean: Tensor, kept: Tensor) -> Tensor:
    """The bias (d,) of ``linear`` with what it gave for the ``mean`` of inputs that are gone."""
    old = 0 if linear.bias is None else wide(linear.bias)
    return old + missing_mean(linear.weight, mean, kept)


def _parameter(values: Tensor, like: nn.Parameter) -> nn.Parameter:
    return nn.Parameter(values.to(like).contiguous(), requires_grad=like.requires_grad)
