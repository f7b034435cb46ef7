"""What a sweep measures: its spec, and the points that follow from it, in their order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

from ..criteria import find_criterion
from ..errors import InputError, check_seed
from ..presets import find_preset
from ..pruning.allocation import ALLOCATIONS, UNITS
from ..pruning.compensation import resolve_compensation
from ..pruning.propagation import PROPAGATIONS
from ..specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec

DENSE = "dense"
"""The label of the point of the dense model."""


@dataclass(frozen=True)
class SweepSpec:
    """What to measure: every criterion at every sparsity, on every calibration set.

    ``seeds`` draw the calibration samples; for the criterion "random" they are its own. ``samples``
    are calibration sizes. The samples and the seed of ``calibration`` and the sparsity and the
    source of ``plan`` do not count. ``presets`` (names of `PRESETS`) are lines of their own, whose
    criterion and plan settings are the preset's. ``profile``: latency and memory, too.
    """

    model: ModelSpec = field(default_factory=ModelSpec)
    criteria: tuple[str, ...] = ("llm-bip", "wanda-sp", "flap", "magnitude")
    sparsities: tuple[float, ...] = (0.1, 0.2, 0.3, 0.5)
    seeds: tuple[int, ...] = (0,)
    samples: tuple[int, ...] = (32,)
    calibration: CalibrationSpec = field(default_factory=CalibrationSpec)
    plan: PlanSpec = field(default_factory=PlanSpec)
    texts: tuple[EvaluationSpec, ...] = (EvaluationSpec(),)
    profile: bool = False
    presets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Line:
    """One line of the chart: a criterion and how its plans are made."""

    label: str
    criterion: str
    plan: PlanSpec

    @property
    def calibrated(self) -> bool:
        """Whether the calibration set matters, to the scores or to the compensation."""
        chosen = find_criterion(self.criterion)
        return chosen.calibrated or self.compensation != "none"

    @property
    def compensation(self) -> str:
        return resolve_compensation(self.plan.compensation, self.criterion)

    def task(self, spec: SweepSpec, sparsity: float, seed: int | None, samples: int | None):
        """The `Task` of one point; ``seed`` and ``samples`` are None where they do not matter."""
        drawn = {"samples": samples, "seed": seed} if samples is not None else {}
        calibration = replace(spec.calibration, **drawn)
        own_seed = seed is not None and "seed" in find_criterion(self.criterion).options
        options = (("seed", seed),) if own_seed else ()
        score = ScoreSpec(spec.model, calibration, self.criterion, options)
        return Task(self.label, score, replace(self.plan, sparsity=sparsity), seed, samples)


@dataclass(frozen=True)
class Task:
    """A point to be computed; ``plan`` is None for the dense model."""

    label: str
    score: ScoreSpec
    plan: PlanSpec | None = None
    seed: int | None = None
    samples: int | None = None

    @property
    def cuts(self) -> bool:
        """Whether anything is removed."""
        return self.plan is not None and self.plan.sparsity > 0

    @property
    def facts(self) -> dict[str, Any]:
        """What the point is of: label, criterion, sparsity, seed, samples."""
        return {
            "label": self.label,
            "criterion": self.score.criterion if self.plan else DENSE,
            "sparsity": self.plan.sparsity if self.plan else 0.0,
            "seed": self.seed,
            "samples": self.samples,
        }

    def __str__(self) -> str:
        return f"{self.label} at {100 * self.plan.sparsity:g} %" if self.plan else "dense model"


def lines(spec: SweepSpec) -> list[Line]:
    """The lines of the chart: the criteria, then the presets."""
    base = replace(spec.plan, source="")
    found = [Line(name, name, base) for name in dict.fromkeys(spec.criteria)]
    for name in dict.fromkeys(spec.presets):
        values = dict(find_preset(name).values)
        criterion = values.pop("criterion", ScoreSpec().criterion)
        known = {k: v for k, v in values.items() if k in PlanSpec.__dataclass_fields__}
        found.append(Line(name, criterion, replace(base, **known)))
    return found


def tasks(spec: SweepSpec) -> list[Task]:
    """All points of a sweep, in the order in which they are computed.

    The dense model comes first, then what needs no calibration, then one calibration set after
    the other. A sparsity of 0 is the dense model: one point a line.
    """
    found = [Task(DENSE, ScoreSpec(spec.model))]
    sparsities = sorted({s for s in spec.sparsities if s})
    every, seeds = lines(spec), list(dict.fromkeys(spec.seeds))
    if 0 in spec.sparsities:
        found += [line.task(spec, 0.0, None, None) for line in every]
    for line in every:
        if not line.calibrated:
            own = seeds if "seed" in find_criterion(line.criterion).options else [None]
            found += [line.task(spec, s, seed, None) for seed in own for s in sparsities]
    for seed in seeds:
        for samples in dict.fromkeys(spec.samples):
            for line in every:
                if line.calibrated:
                    found += [line.task(spec, s, seed, samples) for s in sparsities]
    return found


def text_names(texts: Sequence[EvaluationSpec]) -> dict[str, EvaluationSpec]:
    """The test texts by short names: the window is said only where it tells two apart."""
    texts = tuple(dict.fromkeys(texts))
    ways: tuple[Callable[[EvaluationSpec], str], ...] = (
        lambda e: Path(e.text).name,
        lambda e: f"{Path(e.text).name}-{e.window}",
        lambda e: f"{e.text}-{e.window}-{e.max_tokens or 'all'}",
    )
    for way in ways:
        found = {way(text): text for text in texts}
        if len(found) == len(texts):
            break
    return found


def check_sweep(spec: SweepSpec) -> None:
    """Raise InputError for a sweep that is wrong as a whole. Nothing is loaded for it."""
    for name in spec.criteria:
        find_criterion(name)
    for name in spec.presets:
        find_preset(name)
    if not spec.criteria and not spec.presets:
        raise InputError("A sweep needs at least one criterion or preset.")
    for name in ("sparsities", "seeds", "samples", "texts"):
        if not getattr(spec, name):
            what = {"samples": "calibration sizes", "texts": "test texts"}.get(name, name)
            raise InputError(f"The list of {what} is empty; give at least one.")
    for sparsity in spec.sparsities:
        if not (isinstance(sparsity, Real) and 0 <= sparsity < 1):
            raise InputError(f"A sparsity is a number from 0 to below 1, not {sparsity}.")
    for seed in spec.seeds:
        check_seed(seed)
    if min(spec.samples) < 1 or spec.calibration.seq_len < 2:
        raise InputError("A calibration set has at least 1 sample of at least 2 tokens.")
    for text in spec.texts:
        if text.window < 2 or (text.max_tokens is not None and text.max_tokens < 2):
            raise InputError("The window and the number of test tokens are at least 2.")
    _check_plan(spec.plan)


def _check_plan(plan: PlanSpec) -> None:
    for value, known, what in (
        (plan.unit, UNITS.ALL, "unit"),
        (plan.allocation, ALLOCATIONS, "allocation"),
        (plan.propagation, PROPAGATIONS, "propagation"),
    ):
        if value not in known:
            raise InputError(f"There is no {what} {value!r}; there are {', '.join(known)}.")
    resolve_compensation(plan.compensation, ScoreSpec().criterion)
