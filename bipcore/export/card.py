"""The model card (README.md) of an export."""

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from ..data.beginnings import said_of
from ..evaluation.metrics import chosen_metrics
from ..pruning.plan import PruningPlan
from ..specs import EvaluationSpec, RecoverySpec
from ..specs.recovery import STORED
from .base import Format
from .public import is_hub_id, plain, public_name, public_plan

ADAPTER = "adapter"
"""The folder of an export that keeps the adapter of a recovery."""
CARD = "README.md"
MADE_WITH = "Made with bipcore."
"""What every card says, by which one of ours is known."""

_TEMPLATE = """---
{metadata}---

# {title}

This is {base} with {total:.1%} of its parameters removed by structured pruning: whole attention
heads and feed-forward channels are gone, not masked. {made_with}

## How to load it

```{language}
{code}
```

{loading}
{readers}
## What was removed

{removed}

`{plan}` lists every head and channel that stayed, and the settings they were chosen with.
{recovered}
## Before and after

{figures}
"""

_RECOVERED = """
## How it was recovered

{how}

{settings}
"""

_TRAINED = {
    "lora": "After pruning it was fine-tuned with LoRA; the adapter is merged into the weights.",
    "blocks": "After pruning all weights of its decoder blocks were trained.",
    "refit": "After pruning the projections that were cut were trained, with norms and biases.",
}
_ADAPTER_BESIDE = (
    f" `{ADAPTER}/` has\nthe adapter as `peft` reads it: it belongs on the pruned model before the "
    "merge, not on this one."
)
_OBJECTIVES = {
    "distill": "the divergence of the next token from the dense model's",
    "text": "the loss of the text",
}


def model_card(
    plan: PruningPlan,
    *,
    place: str,
    plan_file: str = "plan.json",
    written_as: Format,
    model_class: str,
    parameters: int,
    reason: str | None,
    base_model: str,
    licence: str,
    figures: Mapping[str, Any],
    on_disk: Mapping[str, Sequence[str]],
    readers: str = "",
    recovery: RecoverySpec | None = None,
) -> str:
    """The card as Markdown. ``figures``: name -> (before, after), already worded for people; with
    ``recovery`` (dense, pruned, recovered). ``on_disk``: rows like them of how the
    weights are written. ``readers``: what can read the export, in a sentence.

    Names are shown as they are, whatever they hold, but for the folders of this machine.

    ``place`` is that of the export, which is called so for others; a file has no adapter beside it.
    ``reason``: why a format before ``written_as`` could not hold the model, in a sentence; None
    where it is the one asked for. ``parameters``: how many it has.
    """
    states = ("Dense", "Pruned", "Recovered") if recovery else ("Before", "After")
    counted = _counted(plan, parameters) | on_disk
    rows = {name: [*pair, *pair[1:] * (len(states) - 2)] for name, pair in counted.items()}
    rows |= {name: list(values) for name, values in figures.items()}
    said = public_plan(plan)
    return _TEMPLATE.format(
        metadata=_metadata(base_model, licence, written_as),
        title=plain(place),
        made_with=MADE_WITH,
        base=plain(public_name(base_model)) if base_model else "a causal language model",
        total=plan.realised_total,
        language=written_as.language,
        code=written_as.loading_code(f"path/to/{place}"),
        loading=written_as.card.format(
            name=plain(place),
            model_class=model_class,
            reason=plain(reason or "It was asked for in this form."),
        ),
        readers=f"\nRead by {readers}\n" if readers else "",
        removed=_table(("Setting", "Value"), _settings(said).items()),
        plan=plain(plan_file),
        recovered=_recovered(recovery, beside=not written_as.suffix) if recovery else "",
        figures=_table(("", *states), ((k, *v) for k, v in rows.items())),
    )


def _counted(plan: PruningPlan, parameters: int) -> dict[str, list[str]]:
    """What follows from the widths: rows of a value before and one after."""
    macs = [f"{shape.macs(512) / 1e9:,.2f} G" for shape in (plan.shape, plan.pruned_shape)]
    return {
        "Parameters": [f"{plan.shape.parameters:,}", f"{parameters:,}"],
        "MACs at 512 tokens": macs,
    }


def figure_rows(
    evaluation: EvaluationSpec, found: Sequence[Mapping[str, Any]]
) -> dict[str, tuple[str, ...]]:
    """The ``figures`` of a card: a row for each metric, of what was ``found`` for every state."""
    measured_on = (
        f"{public_name(evaluation.text)} test text, first {found[0]['tokens']:,} tokens, "
        f"window {evaluation.window}, {said_of(found[0]['beginning'])}"
    )
    return {
        f"{metric.heading}, {measured_on}": tuple(metric.say(one[metric.name]) for one in found)
        for metric in chosen_metrics(evaluation.metrics)
    }


def _recovered(spec: RecoverySpec, *, beside: bool) -> str:
    size = f"{spec.samples:,} × {spec.seq_len} tokens"
    settings = {
        "Text": f"{public_name(spec.source)}, {size}, seed {spec.seed}",
        "Objective": _OBJECTIVES[spec.objective]
        + (", of its likeliest tokens alone" if spec.teacher == STORED else "")
        + (f", blocks' outputs × {spec.hidden_weight:g}" if spec.hidden_weight else ""),
    }
    if spec.train == "lora":
        settings["Rank, alpha, dropout"] = f"{spec.rank}, {spec.alpha:g}, {spec.dropout:g}"
        settings["Layers"] = ", ".join(spec.targets)
    settings |= {
        "Optimiser": f"AdamW, learning rate {spec.learning_rate:g}, cosine, "
        f"weight decay {spec.weight_decay:g}",
        "Batch, epochs": f"{spec.batch_size}, {spec.epochs}",
    }
    table = _table(("Setting", "Value"), settings.items())
    how = _TRAINED[spec.train] + (_ADAPTER_BESIDE if beside and spec.train == "lora" else "")
    return _RECOVERED.format(how=how, settings=table)


def _metadata(base_model: str, licence: str, written_as: Format) -> str:
    facts = {"license": licence, "library_name": written_as.library}
    facts["pipeline_tag"] = "text-generation"
    if is_hub_id(base_model):
        facts["base_model"] = base_model
    facts["tags"] = ["pruned", "structured-pruning"]
    return yaml.safe_dump(facts, sort_keys=False, allow_unicode=True)


def _settings(plan: PruningPlan) -> dict[str, str]:
    spec, asked = plan.spec, plan.spec.get("sparsity")
    return {
        "Criterion": str(spec.get("criterion", "by hand")),
        "Calibration": str(spec.get("calibration_text") or spec.get("calibration") or "none"),
        "Sparsity asked": f"{asked:.1%}" if isinstance(asked, float) else "-",
        "Realised, of block parameters": f"{plan.realised:.2%}",
        "Realised, of all parameters": f"{plan.realised_total:.2%}",
        "Attention unit, allocation": f"{spec.get('unit', '-')}, {spec.get('allocation', '-')}",
        "Compensation": str(spec.get("compensation", "none")),
        "Changed by hand": _edited(spec.get("edited")),
        "Query heads a block": _widths(plan, "heads"),
        "Key/value heads a block": _widths(plan, "kv_heads"),
        "FFN channels a block": _widths(plan, "channels"),
    }


def _edited(edits: object) -> str:
    return "; ".join(map(str, edits)) if isinstance(edits, list) and edits else "no"


def _widths(plan: PruningPlan, name: str) -> str:
    """The widths ``name`` of the blocks before and after: "9 -> 6", or "9 -> 0 to 9"."""
    ranges = []
    for shape in (plan.shape, plan.pruned_shape):
        widths = [getattr(block, name) for block in shape.blocks]
        low, high = min(widths), max(widths)
        ranges.append(str(low) if low == high else f"{low} to {high}")
    return " -> ".join(ranges)


def _table(header: tuple[str, ...], rows) -> str:
    lines = [header, tuple("---" for _ in header), *(tuple(map(plain, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
