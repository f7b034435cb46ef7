"""Reports: one HTML page with texts, tables and plots that needs nothing else, not even a network.

A report is a title, an opening and sections; a section is a title and its parts: a paragraph
(text), a table (data frame) or a plot (plotly figure). Everything is escaped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import machine, python_version, system
from typing import TYPE_CHECKING, Any

import pandas as pd

from ..store.files import write_text

if TYPE_CHECKING:
    pass

Part = Any
"""A paragraph (str), a table (pandas.DataFrame) or a plot (plotly's Figure)."""

Section = tuple[str, Sequence[Part]]

GENERATOR = '<meta name="generator" content="bipcore">'
"""Stands at the beginning of every report, which is known by it."""

_PACKAGES = ("torch", "transformers", "numpy", "pandas", "plotly", "accelerate", "datasets")
_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2733; background: #fff; margin: 0; }
main { max-width: 76rem; margin: 0 auto; padding: 2rem 1.25rem 4rem; }
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 .75rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; }
p { max-width: 48rem; }
.opening { font-size: 1.1rem; }
.table { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .75rem; text-align: right; border-bottom: 1px solid #dfe4ea; }
th { border-bottom: 2px solid #9aa5b1; vertical-align: bottom; white-space: pre-line; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
table.facts td { text-align: left; vertical-align: top; }
table.facts td:first-child { white-space: nowrap; color: #52606d; }
@media print { .table { overflow: visible; } h2 { break-after: avoid; } }
"""


def report_html(title: str, sections: Iterable[Section], *, opening: str = "") -> str:
    """The page as text: plotly's code stands in it once, and nothing is fetched."""
    import plotly.graph_objects as go
    from plotly.offline import get_plotlyjs

    body, plotted = [], False
    for heading, parts in sections:
        body.append(f"<section><h2>{escape(heading)}</h2>")
        body += [_part(part) for part in parts]
        plotted = plotted or any(isinstance(part, go.Figure) for part in parts)
        body.append("</section>")
    code = f"<script>{get_plotlyjs()}</script>" if plotted else ""
    start = f'<p class="opening">{escape(opening)}</p>' if opening else ""
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">{GENERATOR}'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style>{code}</head>\n"
        f"<body><main><h1>{escape(title)}</h1>{start}\n" + "\n".join(body) + "</main></body></html>"
    )


def write_report(
    path: str | Path, title: str, sections: Iterable[Section], *, opening: str = ""
) -> None:
    """Write `report_html` to ``path``, whole or not at all; raises InputError where it cannot."""
    write_text(path, report_html(title, sections, opening=opening))


def facts_table(facts: dict[str, object]) -> pd.DataFrame:
    """Names and values as a table of two columns without a header."""
    return pd.DataFrame({"": facts.keys(), " ": [str(value) for value in facts.values()]})


def versions() -> dict[str, str]:
    """What ran: Python, the packages that matter, the system."""
    found = {"Python": python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found | {"system": f"{system()} {machine()}, {os.cpu_count()} CPU cores"}


def _part(part: Part) -> str:
    import plotly.graph_objects as go

    if isinstance(part, go.Figure):
        config = {"displaylogo": False, "responsive": True, "plotlyServerURL": ""}
        return part.to_html(full_html=False, include_plotlyjs=False, config=config)
    if isinstance(part, pd.DataFrame):
        facts = list(part.columns) == ["", " "]
        kind = "facts" if facts else "values"
        cells = part.astype(object).where(part.notna(), "-")
        table = cells.to_html(index=False, border=0, classes=kind, header=not facts)
        return f'<div class="table">{table}</div>'
    return f"<p>{escape(part)}</p>"
