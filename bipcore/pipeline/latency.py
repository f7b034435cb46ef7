"""Targets of latency: the times to plan by, measured once, and what the plan gives in truth."""

from dataclasses import replace

from torch import nn

from ..evaluation.decoding import decode_milliseconds, measure_decode_times
from ..evaluation.profiling import machine
from ..models.adapters import Adapter
from ..models.devices import resolve_device
from ..pruning.decode_times import DECODE_TIMES, DecodeTimes
from ..pruning.plan import PruningPlan
from ..pruning.slicing import apply_plan
from ..pruning.targets import Target
from ..specs import ModelSpec
from .kept import resident_bytes
from .workbench import Workbench


def timed_target(bench: Workbench, spec: ModelSpec, unit: str, target: Target) -> Target:
    """``target`` with the times of the model on this device, measured unless they are stored."""
    model, _ = bench.model(spec)
    identity = times_identity(model, spec, unit, target.context)

    def measure() -> DecodeTimes:
        device = resolve_device(spec.device)
        bench.kept.make_room(resident_bytes(model), device=device, memory=spec.memory)
        with bench.progress.within(0.2, 0.25) as progress:
            return measure_decode_times(model, unit, target.context, progress=progress)

    def made() -> dict:
        return {"model": spec.name}

    return replace(target, times=bench.store.get(DECODE_TIMES, identity, measure, made))


def times_identity(model: nn.Module, spec: ModelSpec, unit: str, context: int) -> dict:
    """What measured times are a function of."""
    return {
        "shape": Adapter(model).shape.to_dict(),
        "dtype": _dtype(model),
        **machine(spec.device),
        "context": context,
        "unit": unit,
    }


def latency_facts(bench: Workbench, spec: ModelSpec, plan: PruningPlan, target: Target) -> dict:
    """Milliseconds a token asked for, predicted and measured of ``plan``, and where that was."""
    model, _ = bench.model(spec)
    bench.progress(0.99, "Measuring how fast the pruned model decodes")
    return {
        "asked": target.limit(plan.shape),
        "predicted": target.cost(plan.pruned_shape),
        "measured": decode_milliseconds(apply_plan(model, plan), target.context),
        "dense": target.cost(plan.shape),
        "context": target.context,
        "dtype": _dtype(model),
        **machine(spec.device),
    }


def _dtype(model: nn.Module) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
