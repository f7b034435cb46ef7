"""The settings of a plan, made whole and checked once: with nothing left to "auto".

What is resolved here is handed on; nothing behind it asks what "auto" means, or whether the
settings fit the model.
"""

from dataclasses import asdict, dataclass, replace

from ..criteria.base import Criterion
from ..errors import InputError
from ..models.shapes import ModelShape
from ..specs import UNITS, PlanSpec

BY_WIDTH = ("uniform", "paper", "log", "linear")
"""The allocations that give every block its widths before anything is scored."""

BY_RANK = {"sublayer": "sublayers", "block": "blocks", "two-stage": "attention sublayers"}
"""The allocations that remove wholes, and which: for criteria that rank these."""

BY_DEPTH = {"owl": "outliers", "block-influence": "influence"}
"""Those that give every block its widths from one number a block, and what that is."""


@dataclass(frozen=True)
class Resolved(PlanSpec):
    """A `PlanSpec` for one criterion and one model: nothing is "auto", and all of it fits."""


def for_criterion(plan: PlanSpec, criterion: Criterion) -> PlanSpec:
    """``plan`` with the allocation and the compensation that "auto" stands for: those of the
    criterion's authors. Raises InputError where the two do not go together."""
    return replace(plan, **_authors_own(plan, criterion))


def _authors_own(plan: PlanSpec, criterion: Criterion) -> dict[str, str]:
    own, allocation = criterion.allocation, plan.allocation
    for name, wholes in BY_RANK.items():
        if allocation != "auto" and (allocation == name) != (own == name):
            ranks = "ranks" if own == name else "does not rank"
            raise InputError(
                f"The criterion {criterion.name!r} {ranks} whole {wholes}, which the allocation "
                f"{allocation!r} does not go with; use the allocation auto."
            )
    return {
        "allocation": own if allocation == "auto" else allocation,
        "compensation": compensation_for(plan.compensation, criterion),
    }


def compensation_for(kind: str, criterion: Criterion) -> str:
    """``kind`` with "auto" replaced by what the criterion's authors use."""
    return criterion.compensation if kind == "auto" else kind


def resolve(plan: PlanSpec, criterion: Criterion, shape: ModelShape) -> Resolved:
    """The settings of ``plan`` for a model of the sizes ``shape``.

    Raises InputError for settings that no plan of such a model can have; whether the sparsity can
    be reached is `choosing.check_possible`'s.
    """
    settings = asdict(plan) | _authors_own(plan, criterion)
    wholes = settings["allocation"] in BY_RANK
    resolved = Resolved(**settings | {"unit": resolve_unit(plan.unit, shape, wholes=wholes)})
    _check_blocks(resolved, shape)
    if resolved.allocation in ("block", "two-stage") and resolved.unit == UNITS.NONE:
        raise InputError(
            f"The allocation {resolved.allocation!r} removes whole attention sublayers, which the "
            "unit none keeps; use the unit auto."
        )
    if plan.propagation == "pruned":
        _check_propagated(resolved, criterion)
    return resolved


def resolve_unit(unit: str, shape: ModelShape, *, wholes: bool = False) -> str:
    """``unit`` with "auto" replaced by the first that fits the model; raises InputError.

    ``wholes``: attentions go as wholes, so nothing has to fit a single head.
    """
    if shape.heads_stay and not wholes:
        if unit not in ("auto", UNITS.NONE):
            raise InputError(
                "The heads of this model are normalised all together, so none goes alone; use the "
                "unit auto or none."
            )
        return UNITS.NONE
    shared = any(block.heads != block.kv_heads for block in shape.blocks)
    if unit == "auto":
        return UNITS.QUERY_HEAD if shared else UNITS.HEAD
    if unit == UNITS.QUERY_HEAD and not shared:
        return UNITS.HEAD  # every query head has a key/value head of its own, which goes with it
    if unit == UNITS.HEAD and shared:
        raise InputError(
            "The model's query heads share key/value heads, so a single head cannot be "
            "removed; use the unit query-head or kv-group."
        )
    return unit


def _check_blocks(plan: PlanSpec, shape: ModelShape) -> None:
    """Raise InputError for what the number and the widths of the blocks do not allow."""
    if plan.protect_first + plan.protect_last >= len(shape.blocks):
        raise InputError(
            f"Protecting {plan.protect_first} + {plan.protect_last} blocks leaves none of the "
            f"{len(shape.blocks)} to prune; protect fewer."
        )
    narrowest = min((block.channels for block in shape.blocks if block.channels), default=0)
    if plan.sparsity and narrowest and plan.round_to > narrowest:
        raise InputError(
            f"A width of {narrowest} channels cannot become a multiple of {plan.round_to}; round "
            "to less."
        )


def _check_propagated(plan: PlanSpec, criterion: Criterion) -> None:
    """Raise InputError where pruned propagation is not possible: widths have to be known ahead."""
    if not criterion.local:
        raise InputError(
            f"The criterion {criterion.name!r} does not read activations alone, so there is "
            "nothing to propagate; use the propagation dense."
        )
    if plan.allocation not in BY_WIDTH:
        raise InputError(
            f"With the allocation {plan.allocation!r} the widths depend on the scores of all "
            "blocks, so pruned propagation is not possible; use uniform, paper, log or "
            "linear, or the propagation dense."
        )
