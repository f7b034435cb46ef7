"""The report of a reproduction: what was measured on what, beside what was published."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from ..evaluation.machine import machine
from ..pipeline.provenance import base_name
from ..studies.reproduction.published import comparability, notes, published_rows
from ..studies.reproduction.rows import Row
from ..studies.reproduction.scale import sizes_sentence
from ..studies.reproduction.spec import Reproduction
from .report import Section, facts_table, report_html, versions, write_report
from .reproduction import reproduction_charts
from .reproduction_tables import readable, reference, refused, sample_sizes

LIMITED = (
    "This was a limited run: it shows that the path works and what comes out of it on the sizes "
    "named here. It is not the benchmark, and its figures are not to be quoted as such."
)


def opening(spec: Reproduction, rows: Sequence[Row]) -> str:
    """What was measured, of which model, on how much."""
    done = sum(not row.error for row in rows)
    counted = "1 row" if done == 1 else f"{done} rows"
    sentence = f"{counted} measured with {base_name(spec.model.name)}. {sizes_sentence(spec)}"
    return f"{sentence} {LIMITED}" if spec.limit is not None else sentence


def report_title(spec: Reproduction) -> str:
    """The report's title."""
    limited = f", limited to {spec.limit}" if spec.limit is not None else ""
    return f"{spec.title} (reproduced with {base_name(spec.model.name)}{limited})"


def reading_notes(spec: Reproduction) -> list[str]:
    """What to know before comparing, as paragraphs."""
    found = [*spec.notes, *(notes(spec.table) if spec.table else ())]
    model, same = reference(spec)
    if model is not None and not same:
        found.insert(
            0,
            f"The published figures are those of {model}; {base_name(spec.model.name)} is another "
            "model, so no difference is taken.",
        )
    if any("@" in column for column in readable_columns(spec)) and spec.table:
        found.append("A question mark: the window of the published perplexity is not stated.")
    return found


def readable_columns(spec: Reproduction) -> list[str]:
    """The columns whose published figures may have an unknown window."""
    return [f"{text.text}@{text.window}" for text in spec.texts]


def comparability_table(spec: Reproduction) -> pd.DataFrame:
    """What each published row of the model may be compared with; empty for a figure."""
    model, _ = reference(spec)
    if model is None:
        return pd.DataFrame(columns=["Row", "May be compared"])
    said: dict[str, list[str]] = {}
    rows = published_rows(spec.table)
    for row in rows[rows["model"] == model].to_dict("records"):
        said.setdefault(comparability(spec.table, row), []).append(_name(row))
    lines = [{"Row": "; ".join(names), "May be compared": text} for text, names in said.items()]
    return pd.DataFrame(lines)


def _name(row: dict) -> str:
    parts = [str(row["method"])] if "method" in row else []
    if row.get("sparsity_percent"):
        parts.append(f"{row['sparsity_percent']} %")
    if row.get("finetuned") == "yes":
        parts.append("tuned")
    return ", ".join(parts) or "dense"


def sections(spec: Reproduction, rows: Sequence[Row]) -> list[Section]:
    """What the report shows, for `write_report`."""
    sizes = sample_sizes(rows)
    found: list[Section] = [
        ("Published and measured", [spec.shows, *([sizes] if sizes else []), readable(spec, rows)])
    ]
    found.append(("How to read this", reading_notes(spec)))
    table = comparability_table(spec)
    if spec.kind == "accuracy" and len(table):
        said = [f"{names}: {text}" for names, text in table.itertuples(index=False)]
        found.append(("Which perplexities may be compared", said))
    if charts := reproduction_charts(spec, rows):
        found.append(("Charts", list(charts.values())))
    if said := refused(rows):
        found.append(("What could not be done", said))
    found.append(("Settings", [facts_table(settings_table(spec))]))
    return [*found, ("Versions", [facts_table(versions())])]


def report_page(spec: Reproduction, rows: Sequence[Row]) -> str:
    """The report as one HTML page."""
    return report_html(report_title(spec), sections(spec, rows), opening=opening(spec, rows))


def write_reproduction_report(path: str | Path, spec: Reproduction, rows: Sequence[Row]) -> None:
    """Write the report; raises InputError where it cannot be written."""
    write_report(path, report_title(spec), sections(spec, rows), opening=opening(spec, rows))


def settings_table(spec: Reproduction) -> dict[str, object]:
    """The settings of a run, worded for people."""
    here, calibration = machine(spec.model.device), spec.calibration
    facts: dict[str, object] = {
        "Model": spec.model.name,
        "Device and type": f"{here['device']}, {here['threads']} threads, {spec.model.dtype}",
        "Calibration": str(calibration),
        "Plans": f"preset {spec.preset}, allocation {spec.allocation}",
    }
    if spec.texts:
        facts["Test texts"] = "; ".join(
            f"{text.text}, window {text.window}, "
            + (f"first {text.max_tokens:,} tokens" if text.max_tokens else "all of it")
            for text in spec.texts
        )
    if spec.tasks is not None:
        rows = "all rows" if spec.tasks.limit is None else f"the first {spec.tasks.limit} rows"
        shots = spec.tasks.num_fewshot
        facts["Tasks"] = f"{', '.join(spec.tasks.tasks)}; {rows}, {shots} examples in the prompt"
    if spec.tuned:
        values = asdict(spec.recovery).items()
        facts["Fine-tuning"] = ", ".join(f"{k.replace('_', ' ')} {_word(v)}" for k, v in values)
    return facts | {"Limit": "none" if spec.limit is None else spec.limit}


def _word(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)
