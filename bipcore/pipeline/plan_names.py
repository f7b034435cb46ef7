"""Names that a user gives to plans, so that they are found again and compared."""

from collections.abc import Iterator
from dataclasses import dataclass

from ..errors import InputError, printable, short
from ..pruning.plan import PLANS, PruningPlan
from ..store.kinds import Kind, is_digest
from ..store.runs import RunStore

PLAN_NAMES: Kind[str] = Kind(
    "plan-names",
    "the names that plans were given",
    write=lambda plan: ({}, {"plan": plan}),
    read=lambda tensors, data: str(data["plan"]),
)

LONGEST = 60
"""Characters of a name."""


@dataclass(frozen=True)
class NamedPlan:
    """A plan that is stored as ``source`` (see `Plans.keep_plan`), under its ``name``."""

    name: str
    source: str
    plan: PruningPlan


def check_name(name: str) -> str:
    """``name`` without spaces at its ends; raises InputError for one that a plan cannot have."""
    name = name.strip()
    if not 0 < len(name) <= LONGEST or name != printable(name):
        raise InputError(f"The name of a plan has from 1 to {LONGEST} characters of a line.")
    if is_digest(name) or "/" in name or "\\" in name or name.endswith(".json"):
        raise InputError(
            f"{short(name)} looks like a stored result or a file; give the plan another name."
        )
    return name


def give_name(store: RunStore, source: str, name: str) -> None:
    """Call the plan that is stored as ``source`` ``name``, and nothing else any more."""
    identity = {"name": check_name(name)}
    store.remove(PLAN_NAMES, identity)
    store.get(PLAN_NAMES, identity, lambda: source)


def forget_name(store: RunStore, name: str) -> None:
    """Call no plan so any more; the plan stays."""
    store.remove(PLAN_NAMES, {"name": name})


def source_of(store: RunStore, name: str) -> str | None:
    """What the plan called ``name`` is stored as; None where there is none."""
    return store.stored(PLAN_NAMES, {"name": name.strip()})


def named_plans(store: RunStore) -> Iterator[NamedPlan]:
    """All plans that have a name and are still stored, by their names."""
    names = [entry.spec["name"] for entry in store.entries(PLAN_NAMES) if entry.whole]
    for name in sorted(names, key=str.casefold):
        source = source_of(store, name)
        plan = store.named(PLANS, source) if source else None
        if plan is not None:
            yield NamedPlan(name, source, plan)
