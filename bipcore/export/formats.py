"""The export formats, in the order in which they are tried. To add one, write its file, list it."""

from torch import nn

from ..errors import InputError, short
from ..models.loading import check_save_dtype
from ..pruning.plan import PruningPlan
from . import modelling_file, stock
from .base import Format
from .gguf import format as gguf

FORMATS: dict[str, Format] = {
    module.FORMAT.name: module.FORMAT
    for module in (
        stock,
        modelling_file,
        gguf,
    )
}

AUTO = "auto"
"""The name that stands for the first format that can hold the plan."""

__all__ = ["AUTO", "FORMATS", "Format", "choose_format", "find_format", "find_kind"]


def find_format(name: str) -> Format:
    """The format called ``name``; raises InputError with the known names."""
    if name not in FORMATS:
        known = ", ".join((AUTO, *FORMATS))
        raise InputError(f"There is no export format {name!r}; there are {known}.")
    return FORMATS[name]


def find_kind(name: str, kind: str, save_dtype: str = AUTO) -> Format | None:
    """The format ``name``, "auto" for none yet, that quantises weights to ``kind``, "auto" for what
    ``save_dtype`` says. Raises InputError where it cannot, or both say something, or there is no
    such type."""
    check_save_dtype(save_dtype)
    found = None if name == AUTO else find_format(name)
    if kind == AUTO:
        return found
    if found is None or kind not in found.kinds or found.quantised is None:
        raise InputError(_no_kind(found, kind))
    if save_dtype != AUTO:
        raise InputError("The type of weights is said by --quantize or by --save-dtype, not both.")
    return found.quantised(kind)


def _no_kind(found: Format | None, kind: str) -> str:
    if found is not None and found.kinds:
        have = ", ".join(found.kinds)
        return f"The format {found.name} does not quantise to {short(repr(kind))}; it has {have}."
    can = " or ".join(one.name for one in FORMATS.values() if one.kinds)
    return f"Only the format {can} quantises weights; give --format {can}, or no --quantize."


def choose_format(
    plan: PruningPlan,
    config,
    model: nn.Module | None = None,
    *,
    name: str = AUTO,
    kind: str = AUTO,
) -> tuple[Format, str | None]:
    """The format ``name`` for what ``plan`` leaves, and why the first in the list would not do.

    That reason is a sentence, or None where all before it would do. ``kind`` is that of
    `find_kind`, the other arguments are those of a format's ``problem``. Raises InputError where
    there is no such format, or it cannot hold the plan.
    """
    wanted, reason = find_kind(name, kind), None
    for one in FORMATS.values():
        if wanted is not None and one.name == wanted.name:
            one = wanted
        elif wanted is None and one.on_request:
            continue
        problem = one.problem(plan, config, model)
        if problem is None and wanted in (None, one):
            return one, reason
        if one is wanted:
            break
        reason = reason or problem
    raise InputError(problem)
