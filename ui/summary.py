"""The figures of a plan, as the pages show them."""

import math

import streamlit as st

from bipcore.models.shapes import BlockShape
from bipcore.pruning.compensation import too_few_tokens
from bipcore.pruning.plan import NOTHING, PruningPlan

from .figures import metric_row
from .words import plain


def plan_metrics(plan: PruningPlan) -> None:
    """A row of metrics: asked and realised sparsity, parameters, MACs, widths."""
    before, after = plan.shape, plan.pruned_shape
    metric = metric_row()
    metric(
        "Removed, of the blocks",
        f"{plan.realised:.1%}",
        _asked(plan),
        delta_color="off",
        delta_arrow="off",
        help="The share of the decoder blocks' parameters that the plan removes.",
    )
    metric(
        "Removed, of the model",
        f"{plan.realised_total:.1%}",
        help="The share of all parameters, the embedding and the head included.",
    )
    metric(
        "Parameters",
        f"{after.parameters / 1e6:,.1f} M",
        f"{(after.parameters - before.parameters) / 1e6:,.1f} M",
        delta_color="inverse",
    )
    metric(
        "MACs, 512 tokens",
        f"{after.macs(512) / 1e9:,.1f} G",
        f"{(after.macs(512) - before.macs(512)) / 1e9:,.1f} G",
        delta_color="inverse",
        help="Multiply-accumulates of one forward pass over 512 tokens, counted from the widths.",
    )
    metric(
        "Widths of a block",
        " / ".join(widths(after.blocks)),
        f"from {' / '.join(widths(before.blocks))}",
        delta_color="off",
        delta_arrow="off",
        help="Query heads / key-value heads / FFN channels.",
    )
    _say_what_stays(plan)


def _say_what_stays(plan: PruningPlan) -> None:
    """A word where all heads stay, and a louder one where everything does."""
    if plan.removes_nothing and plan.spec.get("sparsity"):
        st.warning(NOTHING)
    elif all(
        block.heads == was.heads
        for block, was in zip(plan.pruned_shape.blocks, plan.shape.blocks, strict=True)
    ):
        st.caption(_why_no_heads(plan))
    _warn_of_noise(plan)


def _warn_of_noise(plan: PruningPlan) -> None:
    """Where least squares has few calibration tokens to go by, how many would do."""
    said = plan.spec.get("compensation_calibration")
    sizes = (
        [said.get(name) for name in ("samples", "seq_len")] if isinstance(said, dict) else [None]
    )
    if plan.spec.get("compensation") != "least-squares" or set(map(type, sizes)) != {int}:
        return  # a plan of a file may say anything
    if sentence := too_few_tokens(plan, math.prod(sizes)):
        st.warning(sentence)


def _asked(plan: PruningPlan) -> str | None:
    """What was asked for; a plan that was changed or made by hand is what it is."""
    if isinstance(target := plan.spec.get("target"), str):
        searched = ", then searched" if plan.spec.get("search") else ""
        return f"asked {plain(target)}{searched}" + (", edited" if plan.spec.get("edited") else "")
    asked = plan.spec.get("sparsity")
    if not isinstance(asked, float):
        return None
    return f"asked {asked:.0%}" + (", then edited" if plan.spec.get("edited") else "")


def widths(blocks: tuple[BlockShape, ...]) -> list[str]:
    """Query heads, key-value heads and FFN channels, each a range where the blocks differ."""
    parts = []
    for name in ("heads", "kv_heads", "channels"):
        values = {getattr(block, name) for block in blocks}
        low, high = min(values), max(values)
        parts.append(f"{low}" if low == high else f"{low}-{high}")
    return parts


def _why_no_heads(plan: PruningPlan) -> str:
    sparsity, unit = plan.spec.get("sparsity"), plan.spec.get("unit")
    if plan.spec.get("edited") or plan.spec.get("allocation") not in ("uniform", "paper"):
        return "No attention head is removed."
    if not sparsity:
        return "At a sparsity of 0 nothing is removed."
    if unit == "none":
        return "The attention unit is none: only FFN channels are removed."
    shape = plan.shape.blocks[0]
    units = {
        "head": shape.heads,
        "kv-group": shape.kv_heads,
        "query-head": shape.group,
    }.get(str(unit), 0)
    if not units:
        return "No attention head is removed."
    of = " of every KV group" if unit == "query-head" else ""
    return (
        f"No attention head is removed at this sparsity: there are {units} units{of} to choose "
        f"from, so the first goes at {1 / units:.0%}. The FFN channels make up the difference."
    )
