"""Named settings: how a paper does it, and what has measured best here."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InputError


@dataclass(frozen=True)
class Preset:
    """``values``: fields of `ScoreSpec` and `PlanSpec` by name; those not named stay free."""

    name: str
    text: str
    values: Mapping[str, Any] = field(default_factory=dict)


PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "paper",
            "As each criterion's authors do it: for LLM-BIP no block protected, nothing "
            "compensated.",
            {
                "allocation": "auto",
                "protect_first": 0,
                "protect_last": 0,
                "compensation": "auto",
                "propagation": "dense",
            },
        ),
        Preset(
            "recommended",
            "What measured best here: FLAP's scores, the same widths in every block, the first "
            "block protected, least squares. Demo model, C4 calibration: WikiText-2 perplexity "
            "37.9 at 20 % and 103.5 at 50 % (dense 22.9), against 46.7 and 586 for the best of "
            "the criteria as published.",
            {
                "criterion": "flap",
                "allocation": "uniform",
                "protect_first": 1,
                "protect_last": 0,
                "compensation": "least-squares",
                "propagation": "dense",
            },
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset called ``name``; raises InputError with the known names."""
    if name not in PRESETS:
        raise InputError(f"There is no preset {name!r}; there are {', '.join(PRESETS)}.")
    return PRESETS[name]
