"""The model card (README.md) of an export."""

from collections.abc import Mapping
from typing import Any

from .plan import PruningPlan

_TEMPLATE = """---
{metadata}---

# {name}

{base} with {total:.1%} of its parameters removed by structured pruning: whole attention heads
and feed-forward channels are gone, not masked. Made with bipcore.

## How to load it

```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("path/to/{name}")
tokenizer = AutoTokenizer.from_pretrained("path/to/{name}")
```

The class is `{model_class}`, as it stands in `transformers`; no code from this folder is run.

## What was removed

{removed}

`plan.json` lists every head and channel that stayed, and the settings they were chosen with.

## Before and after

{figures}
"""


def model_card(
    plan: PruningPlan,
    *,
    name: str,
    model_class: str,
    base_model: str,
    licence: str,
    figures: Mapping[str, Any],
) -> str:
    """The card as Markdown. ``figures``: name -> (before, after), already worded for people."""
    after, before = plan.pruned_shape, plan.shape
    rows = {
        "Parameters": (f"{before.parameters:,}", f"{after.parameters:,}"),
        "MACs at 512 tokens": (
            f"{before.macs(512) / 1e9:,.2f} G",
            f"{after.macs(512) / 1e9:,.2f} G",
        ),
        **figures,
    }
    return _TEMPLATE.format(
        metadata=_metadata(base_model, licence),
        name=name,
        base=f"`{base_model}`" if base_model else "A causal language model",
        total=plan.realised_total,
        model_class=model_class,
        removed=_table(("Setting", "Value"), _settings(plan).items()),
        figures=_table(("", "Before", "After"), ((k, *v) for k, v in rows.items())),
    )


def _metadata(base_model: str, licence: str) -> str:
    lines = [f"license: {licence}", "library_name: transformers", "pipeline_tag: text-generation"]
    if base_model.count("/") == 1 and not base_model.startswith((".", "/", "~")):
        lines.append(f"base_model: {base_model}")
    return "\n".join([*lines, "tags:", "- pruned", "- structured-pruning", ""])


def _settings(plan: PruningPlan) -> dict[str, str]:
    spec, after, before = plan.spec, plan.pruned_shape.blocks[0], plan.shape.blocks[0]
    settings = {
        "Criterion": str(spec.get("criterion", "by hand")),
        "Calibration": str(spec.get("calibration_text") or spec.get("calibration") or "none"),
        "Sparsity asked": f"{spec['sparsity']:.1%}" if "sparsity" in spec else "-",
        "Realised, of block parameters": f"{plan.realised:.2%}",
        "Realised, of all parameters": f"{plan.realised_total:.2%}",
        "Attention unit, allocation": f"{spec.get('unit', '-')}, {spec.get('allocation', '-')}",
    }
    if plan.uniform:
        settings |= {
            "Query heads a block": f"{before.heads} -> {after.heads}",
            "Key/value heads a block": f"{before.kv_heads} -> {after.kv_heads}",
            "FFN channels a block": f"{before.channels} -> {after.channels}",
        }
    return settings


def _table(header: tuple[str, ...], rows) -> str:
    lines = [header, tuple("---" for _ in header), *(tuple(map(str, row)) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
