"""Rows of a reproduction: what was measured, stored row by row, and found again.

Every row lies in the run store under the kind "reproductions", with a spec that says of which
table or figure it is, which row, and with which settings it was measured. So what a machine has
measured so far can be listed without a model, even where a run was stopped.
"""

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ...data.tasks import data_identity
from ...errors import InputError, reason_of
from ...evaluation.profiling import machine
from ...specs import CalibrationSpec, EvaluationSpec, ModelSpec, RecoverySpec, ZeroShotSpec
from ...specs.recovery import AS_BEFORE
from ...store.kinds import Kind, canonical
from ...store.runs import RunStore
from ..points import DENSE
from .spec import Group, Reproduction, RowKey, load_reproduction

TIMED = ("seconds", "compression")
"""The kinds of reproduction whose figures depend on the machine."""


@dataclass(frozen=True)
class Measured:
    """One figure: ``value`` in the unit of its column, over ``samples`` of ``total`` (tokens of a
    text, rows of a task; None where that means nothing); ``metric`` is what exactly it is."""

    value: float
    samples: int | None = None
    total: int | None = None
    metric: str = ""


@dataclass(frozen=True)
class Row:
    """What was measured of one row, or why it could not be (``error``).

    ``cells`` by the name of their column: "wikitext2@2048" (perplexity, with its window), a task
    (accuracy in per cent), "average", "seconds", "params_billion", "macs_giga",
    "latency_seconds". ``series``: numbers block by block, of figure 3. ``realised`` and
    ``realised_total``: the share of the blocks' and of all parameters that is gone.
    """

    key: RowKey
    cells: Mapping[str, Measured] = field(default_factory=dict)
    series: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    realised: float | None = None
    realised_total: float | None = None
    error: str = ""


def column(text: str, window: int) -> str:
    """The name of a perplexity's column."""
    return f"{text}@{window}"


def count_cells(parameters: int, macs: int, seq_len: int) -> dict[str, Measured]:
    """What the widths alone say, for table 5: ``macs`` are those of ``seq_len`` tokens."""
    return {
        "params_billion": Measured(parameters / 1e9, metric="counted"),
        "macs_giga": Measured(macs / 1e9, seq_len, metric="counted, one sentence"),
    }


def run_settings(spec: Reproduction) -> dict[str, Any]:
    """What all rows of a run are a function of, and what a reader wants to know of it."""
    settings = {
        "model": spec.model.identity(),
        "calibration": spec.calibration.identity(),
        "preset": spec.preset,
        "allocation": spec.allocation,
        "texts": [text.identity() for text in spec.texts],
        "tasks": _tasks(spec),
        "recovery": spec.recovery.identity() if spec.recovery else None,
        "limit": spec.limit,
    }
    if spec.kind in TIMED:
        settings["machine"] = machine(spec.model.device)
    return canonical(settings)


def _tasks(spec: Reproduction) -> dict | None:
    """The tasks and their rows' content, without what does not change their results."""
    if spec.tasks is None:
        return None
    content = {task: data_identity(task) for task in spec.tasks.tasks}
    return _without(asdict(spec.tasks), {"batch_size"}) | {"content": content}


def row_identity(spec: Reproduction, key: RowKey) -> dict:
    """What a stored row is found by."""
    return {"reproduction": spec.name, "row": asdict(key), "settings": run_settings(spec)}


def stored_row(store: RunStore, spec: Reproduction, key: RowKey, compute: Callable[[], Row]) -> Row:
    """The stored row, or ``compute()``, stored."""
    return store.get(REPRODUCTIONS, row_identity(spec, key), compute)


def row_data(row: Row) -> dict:
    """A row as plain data, for `read_row`."""
    return canonical(asdict(row))


def read_row(data: Mapping[str, Any]) -> Row:
    """The inverse of `row_data`."""
    row = Row(**{**data, "key": RowKey(**data["key"])})
    cells = {name: Measured(**cell) for name, cell in data["cells"].items()}
    return replace(
        row, cells=cells, series={name: tuple(values) for name, values in data["series"].items()}
    )


REPRODUCTIONS = Kind(
    "reproductions",
    "rows of the paper's tables and figures",
    version=4,
    write=lambda row: ({}, row_data(row)),
    read=lambda tensors, data: read_row(data),
)


def spec_of(run: "Run") -> Reproduction:
    """The spec that a run's rows are of: the package's, with the run's model and settings, and
    with rows that are not the table's beside its own."""
    spec, settings = load_reproduction(run.name), dict(run.settings)
    plain = {"content"}
    keys = [row.key for row in run.rows if row.key.method != DENSE]
    extra = [Group(k.sparsity, k.tuned, (k.method,)) for k in keys if k not in spec.rows]
    tasks, recovery = settings["tasks"], settings["recovery"]
    changed = replace(
        spec,
        model=ModelSpec(settings["model"]["name"], dtype=settings["model"]["dtype"]),
        calibration=CalibrationSpec(**_without(settings["calibration"], plain)),
        texts=tuple(EvaluationSpec(**_without(text, plain)) for text in settings["texts"]),
        tasks=ZeroShotSpec(**_tuples(_without(tasks, plain))) if tasks else None,
        recovery=_recovery(_without(recovery, plain)) if recovery else None,
        limit=settings["limit"],
    )
    if spec.kind != "sweep":
        return replace(changed, groups=(*spec.groups, *extra))
    return replace(
        changed,
        methods=tuple(dict.fromkeys(key.method for key in keys)) or spec.methods,
        sparsities=tuple(sorted({key.sparsity for key in keys})) or spec.sparsities,
        sizes=spec.sizes and tuple(sorted({key.samples for key in keys if key.samples})),
    )


def _without(data: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: value for name, value in data.items() if name not in names}


def _recovery(said: Mapping[str, Any]) -> RecoverySpec:
    """The recovery that a run says it had."""
    return RecoverySpec(**AS_BEFORE | _tuples(said))


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """Lists, which JSON has for tuples, as tuples."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


@dataclass(frozen=True)
class Run:
    """The rows of one table or figure that were measured with the same ``settings``; ``written``
    is when the last was, as a POSIX time."""

    name: str
    settings: Mapping[str, Any]
    rows: tuple[Row, ...]
    written: float

    @property
    def model(self) -> str:
        """The model's name."""
        return self.settings["model"]["name"]

    @property
    def limit(self) -> int | None:
        """The limit that it ran with; None for the whole of it."""
        return self.settings["limit"]


def measured_rows(store: RunStore, name: str) -> list[Run]:
    """What this machine has measured of the table or figure ``name``, the latest run first.

    Only the run store is read; runs that were stopped are there with the rows they have. Those of
    another version that cannot be read are left out, with a warning.
    """
    runs: dict[str, list] = {}
    for spec, row, written in _stored(store):
        if spec.get("reproduction") == name:
            key = json.dumps(spec["settings"], sort_keys=True)
            runs.setdefault(key, [spec["settings"], [], 0.0])
            runs[key][1].append(row)
            runs[key][2] = max(runs[key][2], written)
    found = [Run(name, settings, _sorted(rows), when) for settings, rows, when in runs.values()]
    return sorted(filter(_is_ours, found), key=lambda run: run.written, reverse=True)


def _is_ours(run: Run) -> bool:
    """Whether the settings of a run are such as this version has."""
    try:
        spec_of(run)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        warnings.warn(f"A stored run of {run.name} is left out: {reason_of(error)}.", stacklevel=3)
        return False
    return True


def _sorted(rows: list[Row]) -> tuple[Row, ...]:
    return tuple(
        sorted(rows, key=lambda row: (row.key.sparsity, row.key.tuned, row.key.samples or 0))
    )


def _stored(store: RunStore) -> Iterator[tuple[dict, Row, float]]:
    """Spec, row and time of every whole entry; what cannot be read is left out, with a warning."""
    for entry in store.entries(REPRODUCTIONS):
        spec = entry.spec if isinstance(entry.spec, dict) else {}
        if entry.path != store.path(REPRODUCTIONS, spec) or "settings" not in spec:
            continue
        try:
            row = store.named(REPRODUCTIONS, entry.digest)
        except InputError as error:
            warnings.warn(f"Left out: {error}", stacklevel=2)
            continue
        if row is not None:
            yield spec, row, entry.written


BATCH = 8
"""Sequences in a batch of `forward_seconds`."""
