"""The command ``reproduce``: a table or a figure of the paper, measured here."""

import re
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from ..errors import InputError
from ..pipeline.pipeline import Pipeline
from ..settings import parse_list, settings_of
from ..specs import ModelSpec
from ..studies.reproduction.rows import Row
from ..studies.reproduction.scale import Changes, configure
from ..studies.reproduction.spec import Reproduction, load_reproduction
from . import console
from .options import Force, Json
from .outputs import check_outputs

Name = Annotated[str, typer.Argument(help="table1 to table5, figure2, figure3 or figure4.")]
Model = Annotated[
    str | None, typer.Option(help="demo, a model folder, or a hub id (default: the paper's model).")
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
Dtype = Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")]
Memory = Annotated[str, typer.Option(help=settings_of(ModelSpec)["memory"].help)]
Limit = Annotated[
    int | None,
    typer.Option(
        help="Scale everything down: so many rows of each task and calibration samples, and short "
        "texts and fine-tuning to match. Not the benchmark."
    ),
]
Samples = Annotated[int | None, typer.Option(help="Calibration samples.")]
SeqLen = Annotated[int | None, typer.Option(help="Tokens in a calibration sample.")]
Calibration = Annotated[
    str | None, typer.Option(help="builtin, wikitext2, ptb, c4, or a .txt or .jsonl file.")
]
Methods = Annotated[
    str, typer.Option(help="Only these criteria, with commas between; others than the table's too.")
]
Sparsities = Annotated[
    str, typer.Option(help="Only these shares of the blocks' parameters, with commas between.")
]
Tasks = Annotated[bool, typer.Option(help="Measure the zero-shot tasks.")]
Tuned = Annotated[bool, typer.Option(help="Measure the rows that are fine-tuned.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Only say what there is to do, and what it would take.")
]
Report = Annotated[
    Path | None,
    typer.Option(help="The report, one HTML page (default: reproduce-NAME-MODEL.html)."),
]
Csv = Annotated[Path | None, typer.Option(help="Also write every figure to a CSV file.")]


def reproduce_command(
    name: Name,
    *,
    model: Model = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    memory: Memory = "auto",
    limit: Limit = None,
    samples: Samples = None,
    seq_len: SeqLen = None,
    calibration: Calibration = None,
    methods: Methods = "",
    sparsities: Sparsities = "",
    tasks: Tasks = True,
    tuned: Tuned = True,
    dry_run: DryRun = False,
    report: Report = None,
    csv: Csv = None,
    force: Force = False,
    json: Json = False,
) -> None:
    """Reproduce a table or a figure of the paper, the published figures beside the measured ones.

    Every piece and every row is stored when it is done: stopped and started again, it goes on
    where it was. With --dry-run nothing is loaded or run.
    """
    wanted = ModelSpec(model or load_reproduction(name).model.name, device, dtype, memory)
    lists = {
        "methods": parse_list(methods, str, "methods"),
        "sparsities": parse_list(sparsities, float, "sparsities"),
    }
    changes = Changes(limit, samples, seq_len, calibration, **lists, tasks=tasks, tuned=tuned)
    spec = configure(name, model=wanted, changes=changes)
    if not dry_run:
        report = report or _default_report(spec)
        check_outputs(csv=csv, report=report, force=force)
        _run(spec, report=report, csv=csv, json=json)
        return
    if report is not None:
        raise InputError("A dry run measures nothing to report; leave --report out.")
    check_outputs(csv=csv, force=force)
    _dry_run(spec, csv=csv, json=json)


def _default_report(spec: Reproduction) -> Path:
    short = re.sub(r"[^\w.-]+", "-", spec.model.name.rstrip("/").rsplit("/", 1)[-1])
    return Path(f"reproduce-{spec.name}-{short}.html")


def _dry_run(spec: Reproduction, *, csv: Path | None, json: bool) -> None:
    """Say what there is to do; the model's sizes are all that is read."""
    from ..studies.reproduction.estimate import assumptions, counted_rows, estimate, sizes_of
    from ..studies.reproduction.scale import fitted, sizes_sentence
    from ..views.reproduction import reading_notes

    shape = sizes_of(spec.model)
    spec = fitted(spec, shape.max_positions)
    found, rows = estimate(spec, shape), counted_rows(spec, shape)
    if csv is not None:
        _write_csv(spec, rows, csv)
    if json:
        facts = {"dry_run": True, "steps": found.steps, "seconds": found.seconds}
        facts |= {"macs": found.macs, "memory": found.memory, "device": found.device}
        facts |= {
            "matrix_product_macs_per_second": found.speed,
            "assumptions": assumptions(spec, shape),
        }
        console.emit_json(_facts(spec, rows) | facts)
        return
    table = _work_table(found.steps)
    console.emit_table(f"What there is to do: {spec.title}", list(table.columns), table.to_numpy())
    console.emit_text("Sizes", sizes_sentence(spec))
    console.emit_text("Estimate", "\n".join([str(found), *assumptions(spec, shape)]))
    _emit_table(spec, rows, counted=True)
    console.emit_text("How to read this", "\n".join(reading_notes(spec)))


def _work_table(steps: Sequence) -> pd.DataFrame:
    """The steps, those of a row together."""
    grouped: dict[str, list] = {}
    for step in steps:
        grouped.setdefault(step.row or step.what, []).append(step)
    lines = []
    for name, of_row in grouped.items():
        kinds = [step.what.partition(",")[0] for step in of_row if step.row]
        lines.append(
            {
                "Of": name,
                "What": ", ".join(dict.fromkeys(kinds)) or "for all rows",
                "Tokens": f"{sum(step.tokens for step in of_row):,}",
                "MACs, T": f"{sum(step.macs for step in of_row) / 1e12:,.2f}",
            }
        )
    return pd.DataFrame(lines, columns=["Of", "What", "Tokens", "MACs, T"])


def _run(spec: Reproduction, *, report: Path, csv: Path | None, json: bool) -> None:
    from ..studies.reproduction.estimate import estimate, sizes_of
    from ..studies.reproduction.run import run_reproduction
    from ..studies.reproduction.scale import fitted
    from ..views.reproduction import write_reproduction_report

    spec = fitted(spec, (shape := sizes_of(spec.model)).max_positions)
    with console.progress_bar() as progress:
        measured = run_reproduction(Pipeline(progress=progress), spec)
        console.note(str(estimate(spec, shape)))
        rows = list(measured)
    failed = [row.error for row in rows if row.error]
    if failed and len(failed) == len([row for row in rows if row.key.sparsity]):
        raise InputError(f"No row could be measured. {failed[0]}")
    write_reproduction_report(report, spec, rows)
    if csv is not None:
        _write_csv(spec, rows, csv)
    if json:
        console.emit_json(_facts(spec, rows) | {"report": str(report)})
        return
    _emit(spec, rows)
    console.emit_text("Report", str(report))


def _emit(spec: Reproduction, rows: list[Row]) -> None:
    from ..views.reproduction import opening, reading_notes
    from ..views.reproduction_tables import refused, sample_sizes

    _emit_table(spec, rows)
    said = [opening(spec, rows), sample_sizes(rows), *reading_notes(spec)]
    console.emit_text("How to read this", "\n".join(one for one in said if one))
    for note in refused(rows):
        console.emit_text("Not done", note)


def _emit_table(spec: Reproduction, rows: list[Row], *, counted: bool = False) -> None:
    """Perplexities and accuracies one below the other: side by side they are too wide."""
    from ..views.reproduction_tables import columns_of, readable

    columns = columns_of(spec)
    perplexities = [name for name in columns if "@" in name]
    for some in (perplexities, [name for name in columns if name not in perplexities]):
        if some:
            table = readable(spec, rows, columns=some, counted=counted)
            console.emit_table(spec.title, list(table.columns), table.to_numpy().tolist())


def _write_csv(spec: Reproduction, rows: list[Row], path: Path) -> None:
    from ..views.reproduction_tables import comparison_frame

    console.write_csv(comparison_frame(spec, rows), path)


def _facts(spec: Reproduction, rows: list[Row]) -> dict:
    """The spec, every figure, and what to know of them, as plain data."""
    from ..views.reproduction import reading_notes
    from ..views.reproduction_tables import comparison_frame

    frame = comparison_frame(spec, rows).astype(object)
    figures = frame.where(frame.notna(), None).to_dict("records")
    return {
        "spec": asdict(spec) | {"texts": [text.facts for text in spec.texts]},
        "limited": spec.limit is not None,
        "rows": rows,
        "figures": figures,
        "notes": reading_notes(spec),
    }
