"""Choosing what stays: from scores and settings to a plan."""

from dataclasses import replace

import numpy
import torch
from torch import Tensor

from ..criteria import find_criterion
from ..criteria.base import BlockScores, Scores
from ..errors import InputError
from ..models.shapes import BlockShape, ModelShape
from ..specs import UNITS, PlanSpec
from .allocation import BlockBudget, allocate
from .plan import BlockPlan, Kept, PruningPlan
from .ranking import check_reachable, keep_globally, keep_ranked
from .resolving import BY_DEPTH, BY_RANK, BY_WIDTH, Resolved, resolve
from .two_stage import keep_two_stage


def make_plan(scores: Scores, *, sparsity: float, **settings: object) -> PruningPlan:
    """Choose what stays: the highest scores, as many of each block as the allocation gives it.

    ``settings`` are the others of `PlanSpec.choice`, each with its default there.
    ``sparsity``: the share of the decoder blocks' parameters to remove, at least 0, below 1.
    ``unit`` of attention: "head" (every query head has its own key/value head), "query-head"
    (the same number of query heads out of every KV group), "kv-group" (a key/value head with
    its query heads), "none" (attention is kept whole), or "auto", the first that fits.
    ``allocation``: "uniform" rounds the number of heads to remove down and lets the channels
    make up the difference; "paper" takes the share of the heads and of the channels, rounded
    separately; both give every block the same widths. "log" and "linear" take more from later
    blocks, "owl" and "block-influence" less from those with more outliers, or that change the
    hidden states more (see `shares`; their numbers come in ``scores.depth``). "global" compares
    standardised scores across blocks (see `ranking.keep_globally`), and "sublayer" and "block"
    remove whole ones, for a criterion that ranks them, as "two-stage" does with attention (see
    `two_stage`). "auto" takes what the criterion's authors use.
    ``protect_first`` and ``protect_last`` blocks keep everything; the others give up more.
    ``round_to``: FFN widths become multiples of it. ``floor``: the share of its heads and of its
    channels that every block keeps at least, with "global". Raises InputError when it cannot be
    done.
    """
    plan = PlanSpec(sparsity=sparsity, **settings)
    if plan.deployable:
        raise InputError(
            "What a program takes follows from the model's configuration, which scores do not "
            "have; plan it with a `Pipeline`."
        )
    return planned(scores, resolve(plan, find_criterion(scores.criterion), scores.shape))


def planned(scores: Scores, plan: Resolved) -> PruningPlan:
    """`make_plan` with settings that are resolved for the scores' criterion and model."""
    spec = {
        "criterion": scores.criterion,
        "options": dict(scores.options),
        "calibration": scores.fingerprint,
        **plan.choice,
        "sparsity": float(plan.sparsity),
        "floor": float(plan.floor),
    }
    if plan.allocation == "two-stage":
        kept = keep_two_stage(scores, plan)
    elif plan.allocation in BY_RANK:
        kept = keep_ranked(scores, plan)
    elif plan.allocation == "global":
        kept = keep_globally(scores, plan)
    else:
        budgets = allocate(scores.shape, plan, scores.depth)
        blocks = zip(scores.blocks, budgets, scores.shape.blocks, strict=True)
        kept = tuple(choose(*block, plan.unit) for block in blocks)
    return PruningPlan(scores.shape, tuple(BlockPlan(*of_block) for of_block in kept), spec)


def outline(shape: ModelShape, plan: Resolved) -> PruningPlan | None:
    """A plan with the widths that one of these settings will have, whatever the scores are; None
    where they depend on the scores. Raises InputError where no scores could make one possible."""
    check_possible(shape, plan)
    if plan.allocation not in BY_WIDTH:
        return None
    level = tuple(_level(block, shape.head_dim) for block in shape.blocks)
    any_plan = planned(Scores(level, "random", {}, shape), plan)
    return replace(any_plan, spec={**any_plan.spec, "compensation": plan.compensation})


def _level(block: BlockShape, head_dim: int) -> BlockScores:
    """Scores of a block that are all the same."""
    widths = block.heads * head_dim, block.heads, block.kv_heads, block.channels
    return BlockScores(*map(torch.zeros, widths))


def check_possible(shape: ModelShape, plan: Resolved) -> None:
    """Raise InputError for a plan that no scores could make possible."""
    if plan.allocation in BY_WIDTH:
        allocate(shape, plan)
    elif plan.allocation in BY_DEPTH:
        allocate(shape, plan, range(len(shape.blocks)))  # the bounds do not depend on the numbers
    elif plan.allocation == "global":
        check_reachable(shape, plan)


def choose(scores: BlockScores, budget: BlockBudget, was: BlockShape, unit: str) -> Kept:
    """The highest-scoring units and channels of one block; of equal scores the earlier goes."""
    group = was.group
    if unit == UNITS.KV_GROUP:
        groups = _keep(scores.kv_groups, budget.attention)
        heads = tuple(g * group + i for g in groups for i in range(group))
    elif unit == UNITS.QUERY_HEAD:
        by_group = scores.heads.view(was.kv_heads, group)
        heads = tuple(
            g * group + i for g in range(was.kv_heads) for i in _keep(by_group[g], budget.attention)
        )
    else:
        heads = _keep(scores.heads, budget.attention)
    return heads, _keep(scores.ffn, budget.channels)


def _keep(scores: Tensor, count: int) -> tuple[int, ...]:
    if not torch.isfinite(scores).all():
        raise InputError("The scores are not finite numbers; score the model again.")
    if not count:
        return ()
    values = scores.numpy()
    lowest = numpy.sort(values)[len(values) - count]
    stay = values >= lowest
    too_many = int(stay.sum()) - count
    stay[numpy.flatnonzero(values == lowest)[:too_many]] = False
    return tuple(numpy.flatnonzero(stay).tolist())
