"""A text through several models, as the page What changed shows it: whole, or its worst passages.

Made by the worker's process, which has the models and the tokenizer; nothing here knows Streamlit.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from bipcore.data.texts import NAMED
from bipcore.errors import InputError
from bipcore.evaluation.differences import Differences, pieces, rows
from bipcore.models.generation import Sampling
from bipcore.pipeline.pipeline import Pipeline
from bipcore.pipeline.recoveries import State
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec
from bipcore.views.differences import coloured_text, likeliest_ids

OWN, DENSE, PRUNED, CALIBRATION = "own", "dense", "pruned", "calibration"
SOURCES = {
    OWN: "the text below",
    DENSE: "the text below, as the original goes on",
    PRUNED: "the text below, as the pruned model goes on",
    CALIBRATION: "the calibration set",
    **{name: f"{name}, test text" for name in NAMED},
}
"""What may be read, and what it is called."""

OF_ONE_TEXT = (OWN, DENSE, PRUNED)
"""Those that are shown whole; of the others the worst passages are."""

LENGTH, PASSAGES, WORST = 64, 20, 20
"""Tokens of a passage, how many are kept, and how many of the worst tokens are listed."""

_WINDOW = 256
_NEW_TOKENS = 96


@dataclass(frozen=True)
class Asked:
    """What is read: one of `SOURCES`, the text below it, the calibration set, so many tokens at
    most."""

    source: str
    text: str
    calibration: CalibrationSpec
    tokens: int


@dataclass(frozen=True)
class Passage:
    """Consecutive tokens from ``start`` on: their text, that coloured, as HTML, and means."""

    start: int
    text: str
    html: str
    kl: float
    agreement: float


@dataclass(frozen=True)
class Changes:
    """Where one model parts from the dense one: over all ``tokens``, in passages, the worst first,
    and at the worst tokens (`evaluation.differences.rows`)."""

    title: str
    tokens: int
    kl: float
    agreement: float
    passages: tuple[Passage, ...]
    rows: list[dict]


def compare_states(
    pipeline: Pipeline, model: ModelSpec, asked: Asked, states: Mapping[str, State]
) -> list[Changes]:
    """`Changes` of the model in each of ``states``, by its title. Raises InputError."""
    if asked.source in OF_ONE_TEXT and not asked.text.strip():
        raise InputError("There is no text; write or paste one.")
    named = asked.source if asked.source in NAMED else NAMED[0]
    positions = getattr(pipeline.model(model)[0].config, "max_position_embeddings", None)
    limit = EvaluationSpec(named, min(_WINDOW, positions or _WINDOW), asked.tokens)
    how = {}
    if asked.source == CALIBRATION:
        how["calibration"] = asked.calibration
    elif asked.source in OF_ONE_TEXT:
        how["own"] = _text(pipeline, model, asked, states)
        limit = EvaluationSpec(max_tokens=asked.tokens)
    found = []
    for number, (title, state) in enumerate(states.items()):
        with pipeline.progress.share(number, len(states)):
            each = pipeline.differences(model, limit, *state, **how)
        found.append(_changes(pipeline, model, title, each, asked.source in OF_ONE_TEXT))
    return found


def _text(pipeline: Pipeline, model: ModelSpec, asked: Asked, states: Mapping[str, State]) -> str:
    """The text below, with what a model makes of it where that is asked for."""
    if asked.source == OWN:
        return asked.text
    plan, _ = next(iter(states.values()))
    sampling = Sampling(_NEW_TOKENS, chat=False)
    for state in pipeline.generate(model, plan, asked.text, sampling):
        generated = state
    return asked.text + generated[asked.source].text


def _changes(
    pipeline: Pipeline, model: ModelSpec, title: str, found: Differences, whole: bool
) -> Changes:
    _, tokenizer = pipeline.model(model)
    length = len(found.tokens) if whole else LENGTH
    passages = (
        _passage(found.part(place.start, place.stop), place.start, tokenizer, title)
        for place in found.passages(length, PASSAGES)
    )
    listed = list(rows(found, tokenizer, WORST))
    return Changes(title, len(found.tokens), *_means(found), tuple(passages), listed)


def _passage(found: Differences, start: int, tokenizer, title: str) -> Passage:
    said = [tokenizer.decode([token]) for token in likeliest_ids(found)]
    parts = pieces(found.tokens, tokenizer)
    html = coloured_text(found, parts, ("Original", title), said)
    return Passage(start, "".join(parts), html, *_means(found))


def _means(found: Differences) -> tuple[float, float]:
    """Mean divergence, and the share of tokens that both agree on."""
    return float(found.kl.double().mean()), float(found.agrees.double().mean())
