"""What a sweep measures: its spec, the lines of its chart, its points before and after."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

from ..criteria import find_criterion
from ..errors import InputError
from ..evaluation.metrics import Metric, chosen_metrics
from ..pruning.resolving import BY_DEPTH, compensation_for
from ..settings import find_preset
from ..specs import PERPLEXITY, CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from ..store.kinds import Kind

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
        """Whether the calibration set matters, to the scores, the widths or the compensation."""
        chosen = find_criterion(self.criterion)
        by_depth = self.plan.allocation in BY_DEPTH
        return chosen.calibrated or by_depth or self.compensation != "none"

    @property
    def compensation(self) -> str:
        return compensation_for(self.plan.compensation, find_criterion(self.criterion))

    def point(self, spec: SweepSpec, sparsity: float, seed: int | None, samples: int | None):
        """One point; ``seed`` and ``samples`` are None where they do not matter."""
        drawn = {"samples": samples, "seed": seed} if samples is not None else {}
        calibration = replace(spec.calibration, **drawn)
        own_seed = seed is not None and "seed" in find_criterion(self.criterion).options
        options = (("seed", seed),) if own_seed else ()
        score = ScoreSpec(spec.model, calibration, self.criterion, options)
        return PointSpec(self.label, score, replace(self.plan, sparsity=sparsity), seed, samples)


@dataclass(frozen=True)
class PointSpec:
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


def point_specs(spec: SweepSpec) -> list[PointSpec]:
    """All points of a sweep, in the order in which they are computed.

    The dense model comes first, then what needs no calibration, then one calibration set after
    the other. A sparsity of 0 is the dense model: one point a line.
    """
    found = [PointSpec(DENSE, ScoreSpec(spec.model))]
    sparsities = sorted({s for s in spec.sparsities if s})
    every, seeds = lines(spec), list(dict.fromkeys(spec.seeds))
    if 0 in spec.sparsities:
        found += [line.point(spec, 0.0, None, None) for line in every]
    for line in every:
        if not line.calibrated:
            own = seeds if "seed" in find_criterion(line.criterion).options else [None]
            found += [line.point(spec, s, seed, None) for seed in own for s in sparsities]
    for seed in seeds:
        for samples in dict.fromkeys(spec.samples):
            for line in every:
                if line.calibrated:
                    found += [line.point(spec, s, seed, samples) for s in sparsities]
    return found


def text_names(texts: Sequence[EvaluationSpec]) -> dict[str, EvaluationSpec]:
    """The test texts by short names: the window is said only where it tells two apart. Those that
    differ in their metrics alone are one, with the metrics of both."""
    together: dict[EvaluationSpec, tuple[str, ...]] = {}
    for text in texts:
        same = replace(text, metrics=())
        together[same] = (*together.get(same, ()), *text.metrics)
    texts = [replace(text, metrics=metrics) for text, metrics in together.items()]
    ways: tuple[Callable[[EvaluationSpec], str], ...] = (
        lambda e: Path(e.text).name,
        lambda e: f"{Path(e.text).name}-{e.window}",
        lambda e: f"{e.text}-{e.window}-{e.max_tokens or 'all'}",
        lambda e: f"{e.text}-{e.window}-{e.max_tokens or 'all'}-{e.text_field}-{e.beginning}",
    )
    for way in ways:
        found = {way(text): text for text in texts}
        if len(found) == len(texts):
            break
    return found


def figures_of(spec: SweepSpec) -> list[tuple[Metric, str]]:
    """What is measured of every point: each metric with the names of its texts, in the order in
    which they are shown."""
    texts = text_names(spec.texts)
    metrics = chosen_metrics(name for text in texts.values() for name in text.metrics)
    return [(one, text) for one in metrics for text in texts if one.name in texts[text].metrics]


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
    for text in spec.texts:
        chosen_metrics(text.metrics)
    for sparsity in spec.sparsities:
        replace(spec.plan, sparsity=sparsity)
    for seed, samples in product(spec.seeds, spec.samples):
        replace(spec.calibration, seed=seed, samples=samples)


@dataclass(frozen=True)
class Point:
    """What was measured of one pruned model, or why it could not be made (``error``).

    ``label`` is the criterion's or the preset's name, or `DENSE`. ``seed`` and ``samples`` are
    None where the point does not depend on them. ``realised`` and ``realised_total``: the share
    of the blocks' and of all parameters that is gone. ``macs`` are those of ``seq_len`` tokens.
    ``perplexity`` is by the names that `text_names` gives, and so is every other metric in
    ``more``, by its own name. ``latency`` is in seconds, ``peak_memory`` in bytes (see
    `Profile`); ``seconds`` is what the point took when it was computed.
    """

    label: str
    criterion: str
    sparsity: float
    seed: int | None = None
    samples: int | None = None
    realised: float | None = None
    realised_total: float | None = None
    parameters: int | None = None
    macs: int | None = None
    seq_len: int | None = None
    perplexity: Mapping[str, float] = field(default_factory=dict)
    latency: float | None = None
    tokens_per_second: float | None = None
    peak_memory: int | None = None
    seconds: float | None = None
    error: str = ""
    more: Mapping[str, Mapping[str, float]] = field(default_factory=dict)

    @property
    def measured(self) -> dict[str, Mapping[str, float]]:
        """Every metric by its name: its values by the names of the texts."""
        return ({PERPLEXITY: self.perplexity} if self.perplexity else {}) | dict(self.more)

    def to_dict(self) -> dict[str, Any]:
        """The point as plain data, each metric under its own name."""
        said = asdict(self)
        more = said.pop("more")
        return said | more


def _checked(data: dict) -> dict:
    """What is stored of a point, if `Point` has a place for all of it; raises TypeError."""
    Point("", "", 0.0, **data)
    return data


POINTS: Kind[dict] = Kind(
    "points", "points of sweeps", version=3, read=lambda tensors, data: _checked(data)
)
