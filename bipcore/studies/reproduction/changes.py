"""A reproduction changed as a command or a page asks: other methods, sparsities, sizes."""

from dataclasses import dataclass, replace

from ...criteria import find_criterion
from ...specs import ModelSpec
from .scale import limited
from .spec import Group, Reproduction, check_reproduction, load_reproduction


@dataclass(frozen=True)
class Changes:
    """What a command or a page wants otherwise; None, an empty list and True leave it as it is.

    ``limit`` scales everything down, as `reproduction_scale.limited` says.
    """

    limit: int | None = None
    samples: int | None = None
    seq_len: int | None = None
    calibration: str | None = None
    methods: tuple[str, ...] = ()
    sparsities: tuple[float, ...] = ()
    tasks: bool = True
    tuned: bool = True


def configure(name: str, *, model: ModelSpec, changes: Changes | None = None) -> Reproduction:
    """The spec called ``name`` for ``model``, with ``changes``; raises InputError.

    Methods that the table has are measured where it has them, others in every group; a sparsity
    that the table does not have gets all its methods, as they are and, where any row is
    fine-tuned, fine-tuned.
    """
    changes = changes or Changes()
    spec = replace(load_reproduction(name), model=model)
    spec = _with_lists(spec, changes)
    if not changes.tuned:
        spec = replace(spec, groups=tuple(g for g in spec.groups if not g.tuned))
    if not changes.tasks:
        spec = replace(spec, tasks=None)
    if changes.limit is not None:
        spec = limited(spec, changes.limit)
    said = {"samples": changes.samples, "seq_len": changes.seq_len, "source": changes.calibration}
    said = {key: value for key, value in said.items() if value is not None}
    spec = replace(spec, calibration=replace(spec.calibration, **said))
    if changes.samples is not None and spec.sizes:
        spec = replace(spec, sizes=(changes.samples,))
    check_reproduction(spec)
    return spec


def _with_lists(spec: Reproduction, changes: Changes) -> Reproduction:
    """The spec with other methods and sparsities."""
    for method in changes.methods:
        find_criterion(method)
    if spec.kind == "sweep":
        methods, sparsities = changes.methods or spec.methods, changes.sparsities or spec.sparsities
        return replace(spec, methods=methods, sparsities=sparsities)
    known = dict.fromkeys(method for group in spec.groups for method in group.methods)
    groups = [g for g in spec.groups if not changes.sparsities or g.sparsity in changes.sparsities]
    kinds = sorted({group.tuned for group in spec.groups})
    have = {group.sparsity for group in spec.groups}
    new = [s for s in changes.sparsities if s not in have]
    groups += [Group(s, tuned, tuple(known)) for s in new for tuned in kinds]
    if changes.methods:
        chosen = changes.methods
        groups = [
            replace(g, methods=tuple(m for m in chosen if m in g.methods or m not in known))
            for g in groups
        ]
    return replace(spec, groups=tuple(sorted(groups, key=lambda g: (g.sparsity, g.tuned))))
