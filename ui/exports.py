"""The export's job, and what came of it."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import streamlit as st

from bipcore.errors import listed
from bipcore.evaluation.metrics import METRICS
from bipcore.export.export import Export
from bipcore.export.formats import AUTO, FORMATS, find_format
from bipcore.models.loading import DTYPES
from bipcore.pruning.plan import PruningPlan
from bipcore.specs import EvaluationSpec, RecoverySpec

from .jobs import worker
from .results import need
from .settings import Settings
from .words import plain
from .work import export


def choose_export_format() -> str:
    """A choice among the export formats, at first the one that can hold the plan."""
    titles = {AUTO: "the first that can hold the plan"}
    titles |= {name: one.title for name, one in FORMATS.items()}
    return st.selectbox("Format", titles, key="export-format", format_func=titles.get)


def choose_types(format: str) -> dict[str, str]:
    """A choice among the types that weights are written in by a format, at first the model's own,
    as the options of `Pipeline.export`."""
    own = {AUTO: "that in which the model is stored"}
    kinds = () if format == AUTO else find_format(format).kinds
    titles = {name: name for name in kinds or DTYPES} | own
    names, label = ((*own, *kinds), "Weights") if kinds else (DTYPES, "Number type")
    key = f"quantize-{format}" if kinds else "save-dtype"
    chosen = st.selectbox(label, names, key=key, format_func=titles.get)
    return {"quantize" if kinds else "save_dtype": chosen}


def measured_names() -> str:
    """What is measured for the model card, in words: every metric there is."""
    return listed(metric.noun for metric in METRICS.values())


def export_text(plan: PruningPlan) -> EvaluationSpec:
    """The text that it is measured on, in windows that the model can read."""
    text = EvaluationSpec(metrics=tuple(METRICS))
    return replace(text, window=min(text.window, plan.shape.max_positions or text.window))


def show_export(
    key: str,
    settings: Settings,
    plan: PruningPlan,
    folder: str,
    evaluation: EvaluationSpec | None,
    recovery: RecoverySpec | None = None,
    *,
    format: str,
    types: Mapping[str, str],
    start: bool,
) -> None:
    """Start the export where asked, and show its progress or its result; else nothing."""
    options = {"evaluation": evaluation, "recovery": recovery, "format": format, **types}
    work = partial(export, settings.model_spec, plan, folder, options)
    if start:
        worker().forget(key)
    if start or worker().find(key) is not None:
        _show(need(key, f"Exporting to {folder}", work))


def _size(size: int, dtype: str) -> str:
    return f"{size / 2**20:,.0f} MiB" + (f" in {dtype}" if dtype else "")


def _before(export: Export) -> str:
    """The size of the dense model, where it is known."""
    if export.bytes_before is None:
        return ""
    return f" (the dense model: {_size(export.bytes_before, export.dtype_before or '')})"


def _show(export: Export) -> None:
    written_as = find_format(export.format)
    kind = written_as.title if written_as.suffix else f"tier {export.tier}"
    st.success(
        f"Exported to {plain(export.folder)}, {kind}: "
        f"{export.parameters / 1e6:,.1f} M parameters, {_size(export.bytes, export.dtype)}"
        f"{_before(export)}. "
        f"Read back as `{export.model_class}`; the largest difference of its logits from the "
        f"model in memory is {export.max_logit_difference:.2g}."
    )
    st.code(written_as.loading_code(export.folder), language=written_as.language)
    if written_as.caption:
        st.caption(written_as.caption.format(folder=plain(export.folder)))
    if written_as.smaller_code is not None:
        st.code(written_as.smaller_code(export.folder), language="bash")
