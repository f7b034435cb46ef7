"""What results are a function of, and how plans say where they come from."""

from dataclasses import asdict, replace
from typing import Any

from ..criteria import find_criterion
from ..criteria.curves import CurveSettings
from ..errors import InputError
from ..evaluation.profiling import SEQ_LEN
from ..models.loading import DEMO, DEMO_HUB
from ..models.shapes import ModelShape
from ..pruning.plan import PruningPlan
from ..pruning.resolving import BY_DEPTH, Resolved
from ..specs import (
    CalibrationSpec,
    EvaluationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
)
from ..store.kinds import digest


def is_propagated(plan: PlanSpec | None) -> bool:
    """Whether the scores of a plan depend on what it cuts."""
    return plan is not None and plan.propagation != "dense"


def score_identity(spec: ScoreSpec, plan: PlanSpec | None = None) -> dict:
    """What the scores of ``spec`` are a function of; one that is not calibrated does not depend
    on the calibration set, and ``plan`` counts where it has pruned propagation, or an allocation
    that asks for a number of each block, which comes with them."""
    criterion = find_criterion(spec.criterion)
    identity = {
        "model": spec.model.identity(),
        "calibration": spec.calibration.identity() if criterion.calibrated else None,
        "criterion": spec.criterion,
        "options": criterion.resolve(dict(spec.options)),
    }
    if is_propagated(plan):
        identity |= {"propagated": plan.choice}
    if (kind := depth_of(spec, plan)) is not None:
        identity |= {"depth": kind, "depth_calibration": spec.calibration.identity()}
    return identity


def depth_of(spec: ScoreSpec, plan: PlanSpec | None) -> str | None:
    """What number of each block the allocation of ``plan`` asks for; None where it asks none."""
    if plan is None or plan.source:
        return None
    own = find_criterion(spec.criterion).allocation
    return BY_DEPTH.get(own if plan.allocation == "auto" else plan.allocation)


def curves_identity(spec: ScoreSpec, how: CurveSettings) -> dict:
    """What curves are a function of: criteria that make them alike share them."""
    calibration = spec.calibration.identity()
    return {"model": spec.model.identity(), "calibration": calibration, "curves": asdict(how)}


def search_identity(spec: ScoreSpec) -> dict:
    """What the steps of a search are a function of: how far it goes is not part of it."""
    identity = score_identity(spec)
    options = {name: value for name, value in identity["options"].items() if name != "until"}
    return identity | {"options": options}


def describe(
    plan: PruningPlan, spec: ScoreSpec, settings: Resolved, *, beginning: str = ""
) -> PruningPlan:
    """``plan`` with the names of its model and calibration text in its spec, and with what is to
    make up for the cut. ``beginning``: where the text had its beginning-of-text token."""
    calibrated = find_criterion(spec.criterion).calibrated or depth_of(spec, settings) is not None
    kind = settings.compensation
    facts: dict[str, Any] = {
        "model": base_name(spec.model.name),
        "calibration_text": _said(spec, beginning) if calibrated or kind != "none" else "none",
        "propagation": settings.propagation,
        "compensation": kind,
    }
    if kind != "none":
        facts["compensation_calibration"] = asdict(spec.calibration)
        facts["compensation_content"] = spec.calibration.identity()["content"]
    return replace(plan, spec={**plan.spec, **facts})


def _said(spec: ScoreSpec, beginning: str) -> str:
    """The calibration set in words, with the beginning of text that "auto" stood for."""
    asked = spec.calibration
    return str(replace(asked, beginning=beginning) if beginning else asked)


def counted(shape: ModelShape) -> dict[str, int]:
    """What the sizes say of the cost: parameters, and the MACs of ``seq_len`` tokens."""
    seq_len = min(SEQ_LEN, shape.max_positions or SEQ_LEN)
    return {"parameters": shape.parameters, "macs": shape.macs(seq_len), "seq_len": seq_len}


def reconstruction_identity(model: ModelSpec, plan: PruningPlan, text: EvaluationSpec) -> dict:
    """What the reconstruction errors of a plan's model on a text are found by."""
    return {
        "model": model.identity(),
        "plan": digest(plan.to_json()),
        "evaluation": text.identity(),
    }


def made_with(
    shape: ModelShape, plan: PruningPlan | None = None, recovery: RecoverySpec | None = None
) -> dict[str, Any]:
    """What is kept beside a result of a model in one of its states, and no result depends on: the
    settings of what its spec has digests of, and what the model costs. ``shape`` is the dense
    model's."""
    said: dict[str, Any] = {"cost": counted(plan.pruned_shape if plan else shape)}
    if plan is not None:
        shares = {"realised": plan.realised, "realised_total": plan.realised_total}
        said["plan"] = {"spec": dict(plan.spec), **shares}
    return said | ({"recovery": asdict(recovery)} if recovery else {})


def compensated_on(plan: PruningPlan) -> CalibrationSpec:
    """The calibration set that `describe` wrote down for the compensation of ``plan``.

    Raises InputError where a plan made by hand does not say, and where the text is not the one
    that it was made with: another text would give another model under the same plan.
    """
    said, default = plan.spec.get("compensation_calibration"), asdict(CalibrationSpec())
    types = {name: type(value) for name, value in default.items()}
    said = default | said if isinstance(said, dict) and "source" in said else {}
    if {name: type(value) for name, value in said.items()} != types:
        raise InputError(
            f"The plan asks for the compensation {plan.spec.get('compensation')!r}, but does not "
            "say what it was calibrated on."
        )
    calibration = CalibrationSpec(**said)
    content = plan.spec.get("compensation_content")
    if content is not None and content != calibration.identity()["content"]:
        raise InputError(
            f"The text {calibration.source!r} is not the one that the plan was made with; make "
            "the plan again."
        )
    return calibration


def base_name(name: str) -> str:
    """The name that stands for the model ``name`` outside this machine."""
    return DEMO_HUB if name == DEMO else name
