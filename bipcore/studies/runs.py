"""Everything in the run store as a list of runs: what each is, how it was made, what came of it.

Manifests and plain data are read, tensors are not, so a damaged tensor is not seen here but when it
is used. Nothing is computed, loaded or put in order.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from ..store.entries import Damaged
from ..store.kinds import Kind, digest, is_digest
from ..store.runs import Entry, RunStore, plain_data_of
from .run_words import WORDS, Said, figure_words, short_words

FINISHED, UNFINISHED, LEFT_OVER, DAMAGED, OUTDATED = (
    "finished",
    "unfinished",
    "left over",
    "damaged",
    "outdated",
)
STATES = {
    FINISHED: "It is read wherever it is asked for again.",
    UNFINISHED: "It was stopped, and goes on from here when it is started again.",
    LEFT_OVER: "It is being written, or was when its process was killed.",
    DAMAGED: "It is not what was written: it is computed again where it is asked for.",
    OUTDATED: "A version before this one wrote it, and this one does not read it any more.",
}
"""What an entry may be, and what that means."""

SORTS = ("when", "size", "figure")


@dataclass(frozen=True)
class Run:
    """What one result in the store is: see `run_words.Said`. A search is one, of an entry a step.

    ``words`` are its settings in a line, or what is wrong with it. ``when`` is a POSIX time,
    ``seconds`` how long it took, None where nobody said; ``fault`` why it is damaged.
    """

    entries: tuple[Entry, ...]
    state: str
    when: float
    model: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    costs: Mapping[str, float] = field(default_factory=dict)
    by_text: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    seconds: float | None = None
    words: str = ""
    fault: str = ""

    @property
    def entry(self) -> Entry:
        """Its first entry."""
        return self.entries[0]

    @property
    def kind(self) -> str:
        """The name of its kind."""
        return self.entry.kind

    @property
    def title(self) -> str:
        """Its kind in words."""
        return WORDS[self.kind].title if self.kind in WORDS else self.kind

    @property
    def name(self) -> str:
        """What tells it from others of its kind: the digest of its first entry."""
        return self.entry.digest

    @property
    def size(self) -> int:
        """Its bytes on the disk."""
        return sum(entry.size for entry in self.entries)

    @property
    def figure(self) -> str:
        """Its main figure with its name; empty where there is none."""
        return next((figure_words(*one) for one in self.figures.items()), "")

    def to_dict(self) -> dict[str, Any]:
        """The run as plain data."""
        return {
            "kind": self.kind,
            "name": self.name,
            "title": self.title,
            "model": self.model,
            "settings": dict(self.settings),
            "words": self.words,
            "figures": dict(self.figures),
            "costs": dict(self.costs),
            "when": self.when,
            "seconds": self.seconds,
            "size": self.size,
            "state": self.state,
            "fault": self.fault,
            "entries": [entry.digest for entry in self.entries],
        }


def list_runs(
    store: RunStore,
    kinds: Iterable[Kind],
    *,
    kind: str | None = None,
    model: str | None = None,
    sort: str = "when",
) -> list[Run]:
    """Everything in ``store``, or of one ``kind``, and of one ``model`` by the name that it was
    asked for by. ``kinds``: all that there are.

    ``sort``: "when", the latest first, "size", the largest first, or "figure": by its name, the
    smallest first, what has none behind. Raises InputError for a kind or a sort that there is not.
    """
    versions = {one.name: one.version for one in kinds}
    if kind is not None and kind not in versions:
        raise InputError(f"There is no kind {kind!r} of results; there are {', '.join(versions)}.")
    if sort not in SORTS:
        raise InputError(f"Runs are sorted by {', '.join(SORTS)}, not by {sort!r}.")
    entries = list(store.entries())
    scored = _scored(entries)
    runs = [_run(entry, versions) for entry in entries if kind in (None, entry.kind)]
    found = [run for run in _searches(runs, scored) if model in (None, run.model)]
    return sorted(found, key=_ORDER[sort])


def _by_figure(run: Run) -> tuple:
    name, value = next(iter(run.figures.items()), ("", math.inf))
    return not name, name, value


_ORDER: Mapping[str, Callable[[Run], Any]] = {
    "when": lambda run: -run.when,
    "size": lambda run: -run.size,
    "figure": _by_figure,
}


def _run(entry: Entry, versions: Mapping[str, int]) -> Run:
    state, fault, data = _state(entry, versions), entry.fault, {}
    when = _number(entry.made.get("at"))
    if state != DAMAGED and entry.whole and entry.kind not in _NO_FIGURES:
        try:
            data = plain_data_of(entry)
        except Damaged as damage:
            state, fault = DAMAGED, str(damage)
    said, words = _said(entry, data)
    seconds = _number(said.seconds)
    if seconds is None and entry.kind not in _AT_ONCE:
        seconds = _number(entry.made.get("seconds"))
    return Run(
        entries=(entry,),
        state=state,
        when=entry.written if when is None else when,
        model=said.model,
        settings=said.settings,
        figures=_numbers(said.figures),
        costs=_numbers(said.costs),
        by_text={metric: _numbers(values) for metric, values in said.by_text.items()},
        seconds=seconds,
        words=fault if state == DAMAGED else words,
        fault=fault if state == DAMAGED else "",
    )


def _state(entry: Entry, versions: Mapping[str, int]) -> str:
    if not is_digest(entry.digest):
        return DAMAGED if ".damaged-" in entry.digest else LEFT_OVER
    if entry.fault:
        return DAMAGED
    if entry.version != versions.get(entry.kind):
        return OUTDATED
    return UNFINISHED if entry.kind in ("steps", "checkpoints") else FINISHED


def _said(entry: Entry, data: dict) -> tuple[Said, str]:
    """What the entry says, and its settings in a line; nothing where that is not of the form that
    this version writes."""
    if entry.kind not in WORDS or not entry.whole:
        return Said(), ""
    try:
        said = WORDS[entry.kind].describe(entry.spec, entry.made, data)
        return said, short_words(said.settings)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return Said(), ""


_PASSES = ("scores", "curves", "statistics", "second-moments")
_NO_FIGURES = (*_PASSES, "plans", "plan-names", "steps", "models")
"""Kinds whose plain data says nothing that is listed."""


_AT_ONCE = ("steps", "checkpoints", "plans", "plan-names", "hashes")
"""Kinds of which the store sees the end of the work alone."""


def _number(value: Any) -> float | None:
    """``value`` where it is a finite number."""
    return value if _is_number(value) and math.isfinite(value) else None


def _is_number(value: Any) -> bool:
    """Whether it is a number, an infinite one too: a ruined model's perplexity may be."""
    is_one = isinstance(value, (int, float)) and not isinstance(value, bool)
    return is_one and not math.isnan(value)


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {}
    return {str(name): one for name, one in values.items() if _is_number(one)}


def _scored(entries: Iterable[Entry]) -> set[str]:
    """What identifies the searches that ended in scores."""
    found = set()
    for entry in entries:
        if entry.kind == "scores" and entry.whole and isinstance(entry.spec, dict):
            found.add(_search(entry.spec))
    return found


def _search(spec: Any) -> str:
    """The digest of a search: how far it goes is no part of it."""
    options = spec.get("options")
    if not isinstance(options, dict):
        return ""
    return digest(spec | {"options": {k: v for k, v in options.items() if k != "until"}})


def _searches(runs: Iterable[Run], scored: set[str]) -> Iterator[Run]:
    """The runs, the steps of each search as one; one that ended in scores is finished."""
    steps: dict[str, list[Run]] = {}
    for run in runs:
        spec = run.entry.spec
        whole = run.kind == "steps" and run.state == UNFINISHED and isinstance(spec, dict)
        if not whole or not isinstance(spec.get("of"), dict):
            yield run
            continue
        steps.setdefault(_search(spec["of"]), []).append(run)
    for name, taken in steps.items():
        first = taken[0]
        yield Run(
            entries=tuple(run.entry for run in taken),
            state=FINISHED if name in scored else UNFINISHED,
            when=max(run.when for run in taken),
            model=first.model,
            settings={**first.settings, "steps": len(taken)},
            words=f"{first.words}, {len(taken)} steps",
        )
