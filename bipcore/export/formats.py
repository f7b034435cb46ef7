"""The export formats, in the order in which they are tried. To add one, write its file, list it."""

from torch import nn

from ..errors import InputError
from ..pruning.plan import PruningPlan
from . import modelling_file, stock
from .base import Format

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (
        stock,
        modelling_file,
    )
}

AUTO = "auto"
"""The name that stands for the first format that can hold the plan."""

__all__ = ["AUTO", "FORMATS", "Format", "choose_format", "find_format"]


def find_format(name: str) -> Format:
    """The format called ``name``; raises InputError with the known names."""
    if name not in FORMATS:
        known = ", ".join((AUTO, *FORMATS))
        raise InputError(f"There is no export format {name!r}; there are {known}.")
    return FORMATS[name]


def choose_format(
    plan: PruningPlan, config, model: nn.Module | None = None, *, name: str = AUTO
) -> tuple[Format, str | None]:
    """The format ``name`` for what ``plan`` leaves, and why the first in the list would not do.

    That reason is a sentence, or None where all before it would do. The other arguments are
    those of a format's ``problem``. Raises InputError where there is no such format, or it cannot
    hold the plan.
    """
    if name != AUTO:
        find_format(name)
    reason = None
    for one in FORMATS.values():
        problem = one.problem(plan, config, model)
        if problem is None and name in (AUTO, one.name):
            return one, reason
        if one.name == name:
            break
        reason = reason or problem
    raise InputError(problem)
