"""What reproduces a table or a figure of the paper: the files in ``specs/``, validated.

A spec says which rows are measured, on which texts and tasks, with which calibration and
fine-tuning. `load_reproduction` reads one.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ...criteria import find_criterion
from ...data.beginnings import NONE, TEXT
from ...errors import InputError, reason_of
from ...settings import find_preset
from ...specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
    ZeroShotSpec,
)
from ...specs.recovery import AS_BEFORE
from ..points import DENSE, SweepSpec, point_specs

TABLE_KINDS = ("accuracy", "seconds", "compression", "sweep", "reconstruction")
_FOLDER = Path(__file__).parent / "specs"


@dataclass(frozen=True)
class RowKey:
    """Which row: "dense" or a criterion, at which sparsity, fine-tuned or not, and where it
    matters on how many calibration samples."""

    method: str
    sparsity: float = 0.0
    tuned: bool = False
    samples: int | None = None

    def __str__(self) -> str:
        if self.method == DENSE:
            return "dense"
        size = f", {self.samples} samples" if self.samples is not None else ""
        return f"{self.method}, {100 * self.sparsity:g} %{', tuned' if self.tuned else ''}{size}"


@dataclass(frozen=True)
class Group:
    """Rows that share a sparsity, and whether they are fine-tuned."""

    sparsity: float
    tuned: bool
    methods: tuple[str, ...]


@dataclass(frozen=True)
class Reproduction:
    """One table or figure, as it will be measured.

    ``kind`` is one of `TABLE_KINDS`; ``table`` the number of the published one, 0 for a figure.
    ``models`` are those of the paper, ``model`` the one to measure. ``preset`` and ``allocation``
    say how plans are made. A sweep has ``sparsities``, ``methods`` and ``sizes`` (calibration
    samples) instead of ``groups``. ``limit`` is that of `scale.limited`, None for
    the whole of it; ``notes`` is what a reader has to know.
    """

    name: str
    title: str
    shows: str
    kind: str
    table: int
    models: tuple[str, ...]
    model: ModelSpec
    calibration: CalibrationSpec
    preset: str = "paper"
    allocation: str = "auto"
    groups: tuple[Group, ...] = ()
    methods: tuple[str, ...] = ()
    sparsities: tuple[float, ...] = ()
    sizes: tuple[int, ...] = ()
    texts: tuple[EvaluationSpec, ...] = ()
    tasks: ZeroShotSpec | None = None
    recovery: RecoverySpec | None = None
    notes: tuple[str, ...] = ()
    limit: int | None = None

    @property
    def rows(self) -> tuple[RowKey, ...]:
        """The rows of a table or of figure 3 in their order; those of a sweep are its points."""
        found = [
            RowKey(method, group.sparsity, group.tuned)
            for group in self.groups
            for method in group.methods
        ]
        has_dense = self.kind in ("accuracy", "compression")
        return tuple(dict.fromkeys([*([RowKey(DENSE)] if has_dense else []), *found]))

    @property
    def tuned(self) -> bool:
        """Whether any row is fine-tuned."""
        return any(group.tuned for group in self.groups)

    def label(self, key: RowKey) -> str:
        """What a row is called; in table 5 the method does not matter, and the paper names none.
        The samples are said where they differ."""
        if self.kind == "compression" and key.method != DENSE:
            return f"{100 * key.sparsity:g} %"
        return str(key if self.sizes else replace(key, samples=None))

    def score_spec(self, key: RowKey) -> ScoreSpec:
        """How the row is scored."""
        return ScoreSpec(self.model, self.calibration, key.method)

    def plan_spec(self, key: RowKey) -> PlanSpec:
        """How the row is planned: as the preset says."""
        values = {k: v for k, v in find_preset(self.preset).values.items() if k != "criterion"}
        if self.allocation != "auto":
            values["allocation"] = self.allocation
        return PlanSpec(sparsity=key.sparsity, **values)

    @property
    def sweep(self) -> SweepSpec:
        """The sweep of a spec of that kind."""
        return SweepSpec(
            model=self.model,
            criteria=self.methods,
            sparsities=self.sparsities,
            seeds=(self.calibration.seed,),
            samples=self.sizes or (self.calibration.samples,),
            calibration=self.calibration,
            plan=self.plan_spec(RowKey(DENSE)),
            texts=self.texts,
        )


def names() -> tuple[str, ...]:
    """What can be reproduced: tables, then figures."""
    found = [path.stem for path in _FOLDER.glob("*.yaml")]
    return tuple(sorted(found, key=lambda name: (name.startswith("figure"), name)))


@cache
def load_reproduction(name: str) -> Reproduction:
    """The spec called ``name`` as the package says it; raises InputError with the known names."""
    if name not in names():
        raise InputError(f"There is no reproduction {name!r}; there are {', '.join(names())}.")
    file = _FOLDER / f"{name}.yaml"
    return parse_reproduction(name, yaml.safe_load(file.read_text(encoding="utf-8")))


def parse_reproduction(name: str, data: Mapping[str, Any]) -> Reproduction:
    """The spec of the mapping ``data``; raises InputError where it is not a right one."""
    values = dict(data)
    try:
        windows, max_tokens = values.pop("windows", ()), values.pop("max_tokens", None)
        how = {"max_tokens": max_tokens, "beginning": TEXT}  # as published figures have it
        texts = [EvaluationSpec(t, w, **how) for t in values.pop("texts", ()) for w in windows]
        values["groups"] = tuple(_group(group) for group in values.pop("groups", ()))
        values["calibration"] = CalibrationSpec(**{"beginning": NONE} | values["calibration"])
        if "tasks" in values:
            values["tasks"] = ZeroShotSpec(tuple(values["tasks"]))
        if "recovery" in values:
            values["recovery"] = RecoverySpec(**AS_BEFORE | dict(values["recovery"]))
        plural = ("models", "methods", "sparsities", "sizes", "notes")
        values |= {key: tuple(values[key]) for key in plural if key in values}
        values = {"table": 0} | values | {"model": ModelSpec(values["models"][0])}
        spec = Reproduction(name=name, texts=tuple(texts), **values)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        known = ", ".join(one.name for one in fields(Reproduction) if one.name != "name")
        raise InputError(
            f"The spec {name!r} is not complete or names what it should not: {reason_of(error)}; "
            f"it may say {known}."
        ) from None
    check_reproduction(spec)
    return spec


def _group(data: Mapping[str, Any]) -> Group:
    return Group(float(data["sparsity"]), bool(data["tuned"]), tuple(data["methods"]))


def check_reproduction(spec: Reproduction) -> None:
    """Raise InputError for what no run could do. Nothing is loaded for it."""
    if spec.kind not in TABLE_KINDS:
        raise InputError(
            f"The spec {spec.name!r} is of kind {spec.kind!r}, not {_or(TABLE_KINDS)}."
        )
    find_preset(spec.preset)
    for method in (*spec.methods, *(m for group in spec.groups for m in group.methods)):
        find_criterion(method)
    for sparsity in (*spec.sparsities, *(group.sparsity for group in spec.groups)):
        if not sparsity:
            raise InputError("A sparsity is a number above 0 and below 1, not 0.")
        spec.plan_spec(RowKey(DENSE, sparsity))
    if spec.tuned and spec.recovery is None:
        raise InputError(f"The spec {spec.name!r} has tuned rows, but says nothing of recovery.")
    if spec.kind == "sweep":
        return
    if not spec.rows:
        raise InputError(f"Nothing of {spec.name} is left to measure; leave more of it in.")


def _or(words: tuple[str, ...]) -> str:
    return " or ".join(words)


def row_keys(spec: Reproduction) -> list[RowKey]:
    """All rows of a spec in the order in which they are measured, those of a sweep as well."""
    if spec.kind != "sweep":
        return list(spec.rows)
    found = [
        RowKey(task.label, task.plan.sparsity if task.plan else 0.0, samples=task.samples)
        for task in point_specs(spec.sweep)
    ]
    return list(dict.fromkeys(found))
