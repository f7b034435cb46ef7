"""The stored scores of a criterion under whatever calibration sets it was scored on."""

from typing import Any

from ..criteria import Scores, find_criterion
from ..criteria.base import SCORES
from ..errors import InputError
from ..specs import CalibrationSpec, ScoreSpec
from ..store.kinds import canonical
from ..store.runs import RunStore
from .provenance import score_identity


def scores_over_texts(store: RunStore, spec: ScoreSpec) -> dict[str, Scores]:
    """The scores in ``store`` of the model, criterion and options of ``spec`` on the dense model,
    by what they were calibrated on, in words, the earliest first; nothing is scored.

    Raises InputError for a criterion that reads no calibration text.
    """
    if not find_criterion(spec.criterion).calibrated:
        raise InputError(f"{spec.criterion} reads no calibration text, so its scores are the same.")
    wanted = canonical(score_identity(spec))
    found: dict[str, Scores] = {}
    for entry in sorted(store.entries(SCORES), key=lambda one: one.written):
        made = entry.spec
        if entry.version != SCORES.version or not isinstance(made, dict):
            continue
        if not made.get("calibration") or made | {"calibration": wanted["calibration"]} != wanted:
            continue
        scores = store.named(SCORES, entry.digest)
        if scores is not None:
            found[_words(made["calibration"], found)] = scores
    return found


def _words(calibration: dict[str, Any], taken: dict[str, Scores]) -> str:
    """What a calibration set is; another content under the same words gets a number."""
    said = str(CalibrationSpec(**{k: v for k, v in calibration.items() if k != "content"}))
    again = sum(name.partition(" (")[0] == said for name in taken)
    return f"{said} ({again + 1})" if again else said
