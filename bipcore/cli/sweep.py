"""The command ``sweep``: perplexity and cost against sparsity, for several criteria."""

from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError, reason_of, short
from ..pipeline.pipeline import Pipeline
from ..progress import Progress
from ..settings import join_list
from ..specs import ScoreSpec
from ..store import inputs
from ..studies.points import Point, SweepSpec, check_sweep
from ..studies.sweep import run_sweep
from . import console
from .fitting import fitting
from .options import Force, Json, with_specs
from .outputs import check_outputs


def _from_file(context: typer.Context, path: Path | None) -> Path | None:
    """Take what a YAML file says as the command's defaults: what is on the command line counts
    more."""
    if path is not None:
        known = {parameter.name for parameter in context.command.params} - {"spec", "help"}
        context.default_map = read_yaml(path, known)
    return path


def read_yaml(path: Path, known: set[str]) -> dict[str, str]:
    """The settings in a YAML file by name, as the words of the command line.

    A list becomes words with commas between. Raises InputError with one sentence for a file that
    cannot be read, is no mapping, or has a key that is not one of ``known``.
    """
    found = inputs.read_yaml(path, "The spec file")
    if not isinstance(found, dict):
        raise InputError(f"{path} does not hold settings; write one 'name: value' a line.")
    settings = {}
    for key, value in found.items():
        name = str(key).replace("-", "_")
        if name not in known:
            have = ", ".join(sorted(known))
            raise InputError(f"{path} names a setting {short(key)!r}; there are {have}.")
        settings[name] = _word(path, name, value)
    return settings


def _word(path: Path, name: str, value: Any) -> str:
    values = value if isinstance(value, list) else [value]
    plain = (str, int, float, date)  # a bool is an int, a name may look like a date
    if not all(isinstance(item, plain) for item in values):
        raise InputError(f"{path}: the setting {name!r} is a value or a list of values.")
    try:
        return join_list(values)
    except ValueError as error:  # a whole number that Python does not write out
        raise InputError(f"{path}: the setting {name!r}: {reason_of(error)}.") from None


@with_specs("sweep")
def sweep_command(
    *,
    sweep: SweepSpec,
    csv: Annotated[Path | None, typer.Option(help="Also write every point to a CSV file.")] = None,
    report: Annotated[
        Path | None, typer.Option(help="Also write a report: one HTML page with charts.")
    ] = None,
    force: Force = False,
    spec: Annotated[
        Path | None,
        typer.Option(
            help="A YAML file with these options by name; those on the command line count more.",
            callback=_from_file,
            is_eager=True,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Perplexity and cost against sparsity, for several criteria, sizes and seeds.

    Every point is stored when it is done: stopped and started again, a sweep goes on where it was.
    """
    check_sweep(sweep)
    check_outputs(csv=csv, report=report, force=force)
    points = _compute(sweep)
    if report:
        from ..views.sweep import write_sweep_report

        write_sweep_report(report, sweep, points)
    _emit(sweep, points, csv=csv, json=json)


def _compute(spec: SweepSpec) -> list[Point]:
    """All points; raises InputError where none but the dense model's could be computed."""
    with console.progress_bar() as progress:
        points = list(run_sweep(_pipeline(progress, spec), spec))
    failed = [point.error for point in points if point.error]
    if failed and len(failed) == len([point for point in points if point.sparsity]):
        raise InputError(f"No point could be computed. {failed[0]}")
    return points


def _pipeline(progress: Progress, spec: SweepSpec) -> Pipeline:
    """One that refuses a sweep whose largest points do not fit."""
    score = ScoreSpec(spec.model, replace(spec.calibration, samples=max(spec.samples)))
    plan = replace(spec.plan, sparsity=min(spec.sparsities))
    text = {"text": spec.texts[0]} if spec.texts else {}
    return fitting(progress, "sweep", score, plan, criteria=spec.criteria, **text)


def _emit(spec: SweepSpec, points: list[Point], *, csv: Path | None, json: bool) -> None:
    from ..views.sweep_tables import readable, refused, summary, sweep_frame

    frame = sweep_frame(points)
    if csv:
        console.write_csv(frame, csv)
    if json:
        means = summary(frame).astype(object)
        rows = means.where(means.notna(), None).to_dict("records")
        said = asdict(spec) | {"texts": [text.facts for text in spec.texts]}
        every = [point.to_dict() for point in points]
        console.emit_json({"spec": said, "points": every, "summary": rows})
        return
    table = readable(frame, spec)
    console.emit_table(f"Sweep of {spec.model.name}", list(table.columns), table.values.tolist())
    for note in refused(frame):
        console.emit_text("Not done", note)
