"""The report of a model that was made smaller: what was asked, tried and reached, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import pandas as pd

from ..evaluation.metrics import chosen_metrics
from ..pipeline.recoveries import Recovery
from ..pipeline.shrinking import Candidate
from ..pruning.plan import PruningPlan
from ..specs import EvaluationSpec
from .recovery import divergence_chart, history_frame, loss_chart
from .report import Section, facts_table, versions
from .style import KEPT, REMOVED, styled

if TYPE_CHECKING:
    import plotly.graph_objects as go


def widths_chart(plan: PruningPlan) -> go.Figure:
    """The share of its heads and of its FFN channels that every block keeps."""
    import plotly.graph_objects as go

    both = list(zip(plan.blocks, plan.shape.blocks, strict=True))
    shares = {
        "attention heads": ([len(keep.heads) / max(was.heads, 1) for keep, was in both], REMOVED),
        "FFN channels": ([len(keep.channels) / max(was.channels, 1) for keep, was in both], KEPT),
    }
    figure = go.Figure()
    for name, (values, color) in shares.items():
        figure.add_bar(
            x=list(range(len(values))),
            y=values,
            name=name,
            marker_color=color,
            hovertemplate="block %{x}: %{y:.0%} of the " + name + "<extra></extra>",
        )
    figure = styled(figure, "Block", "Share that stays", title="What each block keeps")
    return figure.update_yaxes(tickformat=".0%", range=[0, 1.02])


def quality_frame(text: EvaluationSpec, figures: Mapping[str, dict]) -> pd.DataFrame:
    """One row a state of the model: its metrics on the test text."""
    metrics = chosen_metrics(text.metrics)
    rows = [
        {"Model": name, **{one.heading: one.say(found[one.name]) for one in metrics}}
        for name, found in figures.items()
    ]
    return pd.DataFrame(rows)


def candidates_frame(candidates: Sequence[Candidate], best: Candidate) -> pd.DataFrame:
    """One row a way to the target, and one for what a search made of the best."""
    rows = [_row(f"{one.words} ({one.score.criterion})", one.plan) for one in candidates]
    if best.plan.spec["search"]["steps"]:
        trials = best.plan.spec["search"]["steps"]
        rows.append(_row(f"the better one of these after {trials:,} trials", best.plan))
    return pd.DataFrame(rows)


def _row(words: str, plan: PruningPlan) -> dict[str, str]:
    return {
        "Widths": words,
        "KL divergence, held-out text (nats a token)": f"{plan.spec['search']['divergence']:.4f}",
        "Parameters": f"{plan.pruned_shape.parameters:,}",
    }


def shrunk_sections(
    best: Candidate,
    candidates: Sequence[Candidate],
    done: Recovery | None,
    text: EvaluationSpec,
    figures: Mapping[str, dict],
    commands: Mapping[str, str],
) -> list[Section]:
    """The sections of the report. ``commands``: what each step is by itself, by what it does."""
    plan = best.plan
    sizes = {
        "asked for": plan.spec["target"],
        "parameters": f"{plan.pruned_shape.parameters:,} of {plan.shape.parameters:,}",
        "of the decoder blocks": f"{plan.realised:.2%} removed",
        "calibration text": plan.spec["calibration_text"],
    }
    if timed := plan.spec.get("latency"):
        sizes["ms a token"] = f"{timed['measured']:.3g} (dense {timed['dense']:.3g}), measured"
    parts: list[Section] = [("What came of it", [facts_table(sizes), quality_frame(text, figures)])]
    chosen = "Measured on calibration text that is held out; the test text had no part in it."
    frame = candidates_frame(candidates, best)
    parts.append(("How the widths were chosen", [chosen, frame, widths_chart(plan)]))
    if done is not None:
        history = history_frame(done.history)
        chart = divergence_chart if done.spec.objective == "distill" else loss_chart
        facts = {"tokens": f"{done.tokens:,}", "seconds": f"{done.seconds:,.0f}"}
        settings = facts_table(facts | {k: v for k, v in asdict(done.spec).items() if v != ""})
        parts.append(("Training", [settings, chart(history, done.chosen)]))
    steps = [f"{what}: {line}" for what, line in commands.items()]
    return [*parts, ("The same, step by step", steps), ("Environment", [facts_table(versions())])]
