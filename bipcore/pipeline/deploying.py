"""Plans that a program takes: what a `PlanSpec` says of it, made settings that lead to such plans.

What programs take is asked of `export.runtimes`, and said nowhere else.
"""

from collections.abc import Iterator
from dataclasses import replace

from ..criteria.base import Criterion
from ..errors import InputError
from ..export.runtimes import verdict
from ..models.shapes import ModelShape
from ..pruning.choosing import outline
from ..pruning.plan import BlockPlan, PruningPlan
from ..pruning.resolving import BY_WIDTH, Resolved, resolve
from ..specs import UNITS, PlanSpec


def fitted(plan: PlanSpec, criterion: Criterion, shape: ModelShape, config) -> Resolved:
    """The settings of ``plan`` for a model, nothing at "auto", and where it names a program, such
    that this takes what they lead to: of what "auto" may stand for, the first that does.

    ``config`` is the model's, and is read only then. Raises InputError where no plan of these
    settings is taken, in the words of the first that was tried.
    """
    if not plan.deployable:
        return resolve(plan, criterion, shape)
    first = None
    for one in _candidates(plan, criterion):
        try:
            resolved = resolve(one, criterion, shape)
            _check_ahead(resolved, shape, config)
            return resolved
        except InputError as error:
            first = first or error
    raise first


def _candidates(plan: PlanSpec, criterion: Criterion) -> Iterator[PlanSpec]:
    """``plan`` with what "auto" may stand for, the most usual first. Criteria that rank wholes
    have their own allocation only."""
    makes = ["auto"]
    if plan.allocation == "auto" and criterion.allocation not in ("sublayer", "block", "two-stage"):
        makes.append("uniform")
    units = ["auto", UNITS.NONE] if plan.unit == "auto" else [plan.unit]
    refits = ["auto", "least-squares"] if plan.compensation == "auto" else [plan.compensation]
    for unit in units:
        for compensation in refits:
            for allocation in makes if plan.allocation == "auto" else [plan.allocation]:
                said = {"unit": unit, "allocation": allocation, "compensation": compensation}
                yield replace(plan, **said)


def _check_ahead(plan: Resolved, shape: ModelShape, config) -> None:
    """Raise InputError where the program does not take what these settings lead to, as far as
    that is known before anything is scored."""
    if plan.allocation in BY_WIDTH:
        made = outline(shape, plan)
    elif plan.allocation == "block":
        made = _sample(shape, BlockPlan((), ()), plan)
    else:
        made = _mixed(shape, plan)
    check_taken(made, plan.deployable, config)


def takes_other_widths(program: str, shape: ModelShape, config) -> bool:
    """Whether ``program``, one of `PlanSpec.deployable`, takes plans whose blocks differ."""
    return not program or verdict(program, _mixed(shape), config).takes


def _mixed(shape: ModelShape, plan: Resolved | None = None) -> PruningPlan:
    """A plan under which one block has fewer channels than the others."""
    was = shape.blocks[0]
    return _sample(shape, BlockPlan(tuple(range(was.heads)), (0,)), plan)


def _sample(shape: ModelShape, first: BlockPlan, plan: Resolved | None) -> PruningPlan:
    """``first`` of the first block, and all of the others."""
    whole = [BlockPlan(tuple(range(b.heads)), tuple(range(b.channels))) for b in shape.blocks]
    spec = {} if plan is None else {"compensation": plan.compensation}
    return PruningPlan(shape, (first, *whole[1:]), spec)


def check_taken(plan: PruningPlan, program: str, config) -> None:
    """Raise InputError, in a sentence, where ``program``, one of `PlanSpec.deployable`, does not
    take what ``plan`` leaves of the model of ``config``; "" takes anything."""
    found = verdict(program, plan, config) if program else None
    if found is not None and not found.takes:
        near = f" What would do: {found.nearest}." if found.nearest else ""
        raise InputError(f"{found.program} does not take this plan: {found.reason}{near}")
