"""The report of a sweep: what was measured on what, the charts, the tables, the settings."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from ..criteria import CRITERIA
from ..pipeline.provenance import base_name
from ..studies.sweep import Point
from ..studies.sweep_specs import SweepSpec, lines, text_names
from .report import Section, facts_table, report_html, versions, write_report
from .sweep import cost_chart, perplexity_chart, size_chart, sizes_of, sparsities_of
from .sweep_tables import readable, refused, sweep_frame


def opening(spec: SweepSpec) -> str:
    """One sentence: what was measured, of which model, on which texts."""
    texts = _and(
        f"{name} (window {text.window}, "
        + (f"first {text.max_tokens:,} tokens)" if text.max_tokens else "all of it)")
        for name, text in text_names(spec.texts).items()
    )
    shares = _and(f"{100 * sparsity:g} %" for sparsity in sorted(set(spec.sparsities)))
    sentence = (
        f"Perplexity of {base_name(spec.model.name)} on {texts}, after "
        f"{_and(_title(line.label) for line in lines(spec))} removed {shares} of the parameters of "
        "its decoder blocks"
    )
    if any(line.calibrated for line in lines(spec)):
        sizes, seeds = sorted(set(spec.samples)), list(dict.fromkeys(spec.seeds))
        calibration = spec.calibration
        sentence += (
            f", calibrated on {calibration.source} with {_and(map(str, sizes))} samples of "
            f"{calibration.seq_len} tokens, {'seeds' if len(seeds) > 1 else 'seed'} "
            f"{_and(map(str, seeds))}"
        )
    return sentence + "."


def sweep_title(spec: SweepSpec) -> str:
    """The report's title."""
    return f"Pruning sweep of {base_name(spec.model.name)}"


def sections(spec: SweepSpec, points: Iterable[Point]) -> list[Section]:
    """What the report shows, for `write_report`."""
    frame = sweep_frame(points)
    found: list[Section] = []
    for name in text_names(spec.texts):
        parts: list = [perplexity_chart(frame, spec, name)]
        if len(sizes_of(frame)) > 1:
            parts += [size_chart(frame, spec, name, s) for s in sparsities_of(frame)]
        found.append((f"Perplexity on {name}", parts))
    found.append(("Cost", [cost_chart(frame, spec), _cost_note(spec)]))
    table = (
        "Means over the seeds, ± one sample standard deviation where there are several. "
        "Asked is the share of the blocks' parameters that was asked for; gone is what the plan "
        "removes, of the blocks and of the whole model."
    )
    found.append(("All figures", [table, readable(frame, spec)]))
    if notes := refused(frame):
        found.append(("What could not be done", notes))
    found.append(("Settings", [facts_table(_settings(spec))]))
    return [*found, ("Versions", [facts_table(versions())])]


def sweep_html(spec: SweepSpec, points: Sequence[Point]) -> str:
    """The report as one HTML page."""
    return report_html(sweep_title(spec), sections(spec, points), opening=opening(spec))


def write_sweep_report(path: str | Path, spec: SweepSpec, points: Sequence[Point]) -> None:
    """Write the report; raises InputError where it cannot be written."""
    write_report(path, sweep_title(spec), sections(spec, points), opening=opening(spec))


def _cost_note(spec: SweepSpec) -> str:
    note = "Parameters and MACs are counted from the widths, without the biases of a compensation."
    if spec.profile:
        note += (
            " Latency is the median of five forward passes over one sequence; peak memory is the "
            "model's weights and what such a pass adds to the memory in use."
        )
    return note


def _settings(spec: SweepSpec) -> dict[str, object]:
    calibration = spec.calibration
    plan = {k: v for k, v in asdict(spec.plan).items() if k not in ("sparsity", "source")}
    return {
        "Model": spec.model.name,
        "Device and type": f"{spec.model.device}, {spec.model.dtype}",
        "Criteria": ", ".join(spec.criteria),
        "Presets": ", ".join(spec.presets) or "none",
        "Sparsities": ", ".join(f"{100 * s:g} %" for s in spec.sparsities),
        "Calibration": f"{calibration.source}, samples of {calibration.seq_len} tokens",
        "Calibration sizes": ", ".join(map(str, spec.samples)),
        "Seeds": ", ".join(map(str, spec.seeds)),
        "Plan": ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in plan.items()),
    }


def _title(label: str) -> str:
    return CRITERIA[label].title if label in CRITERIA else f"the preset {label}"


def _and(words: Iterable[str]) -> str:
    """ "a", "a and b", "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
