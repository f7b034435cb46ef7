"""Quality against cost: what was measured in the same way of the states of one model, and which of
them nothing else beats."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..evaluation.metrics import METRICS, Metric
from ..store.kinds import canonical, digest
from .points import DENSE
from .runs import FINISHED, Run

COSTS = ("parameters", "macs", "latency", "peak_memory")
"""The costs that points are drawn against, by their names in `points.Point`."""


@dataclass(frozen=True)
class Measured:
    """One state of a model: its ``figure``, its costs as far as they are known, what it is
    (``words``), and by which criterion it was cut: `DENSE` of what was not."""

    figure: float
    costs: Mapping[str, float]
    words: str
    criterion: str
    recovered: bool = False

    @property
    def dense(self) -> bool:
        """Whether nothing was cut."""
        return self.criterion == DENSE


@dataclass(frozen=True)
class Group:
    """What may be compared: figures by one ``metric``, of one ``model``, on one ``text`` with one
    window and number of tokens. The dense model comes first, the smallest one last."""

    model: str
    text: str
    metric: Metric
    points: tuple[Measured, ...] = field(default=())

    def __str__(self) -> str:
        count = "1 point" if len(self.points) == 1 else f"{len(self.points)} points"
        return f"{self.model}: {self.metric.noun} on {self.text} ({count})"


def groups(runs: Iterable[Run]) -> list[Group]:
    """The groups that evaluations and points of sweeps make, the one with the most points first.

    The same state that was measured twice, by an evaluation and in a sweep, is one point with the
    costs of both. Evaluations of older versions, which say nothing of the model's size, are left
    out.
    """
    texts, found = {}, {}
    for run in sorted(runs, key=lambda one: one.when):
        if run.state != FINISHED or not run.costs.get("parameters"):
            continue
        for key, text, value in _figures(run):
            if text is not None:
                texts[key[1]] = text
            points = found.setdefault(key, {})
            same = value, run.costs["parameters"]
            before = points[same].costs if same in points else {}
            points[same] = _point(run, value, {**before, **run.costs})
    made = {key: _group(key, texts, points.values()) for key, points in found.items()}
    alike = Counter((one.model, one.text, one.metric.name) for one in made.values())
    for key, one in made.items():
        if alike[one.model, one.text, one.metric.name] > 1:  # files of these names have changed
            made[key] = replace(one, text=f"{one.text}, files {digest(key)[:6]}")
    return sorted(made.values(), key=lambda one: (-len(one.points), str(one)))


def frontier(points: Sequence[Measured], cost: str, metric: Metric) -> list[Measured]:
    """Those of ``points`` that know this cost and that none beats: none costs as little and is as
    good, and better in one of the two. The cheapest first."""
    known = [point for point in points if cost in point.costs]
    sign = 1 if metric.lower_is_better else -1
    best: list[Measured] = []
    for point in sorted(known, key=lambda one: (one.costs[cost], sign * one.figure)):
        if not best or sign * point.figure < sign * best[-1].figure:
            best.append(point)
    return best


def _figures(run: Run) -> list[tuple[tuple[str, str, str], dict | None, float]]:
    """What identifies the group of each figure of a run: model, text and metric; its text, where
    that is known; and its value."""
    spec = run.entry.spec
    if run.kind == "evaluations":
        model, of_texts = spec["model"], {digest(spec["evaluation"]): spec["evaluation"]}
        values = {name: dict.fromkeys(of_texts, value) for name, value in run.figures.items()}
    elif run.kind == "points":
        model = spec["scores"]["model"] if spec["plan"] is not None else spec["model"]
        of_texts, values = run.entry.made.get("texts", {}), run.by_text
    else:
        return []
    identity = json.dumps(canonical(model), sort_keys=True)
    found = []
    for metric, name, value in ((m, n, v) for m in values for n, v in values[m].items()):
        text = of_texts.get(name)
        key = identity, name if text is None else digest(text), metric
        if metric in METRICS and math.isfinite(value):
            found.append((key, text, value))
    return found


def _point(run: Run, value: float, costs: Mapping[str, float]) -> Measured:
    said = run.settings
    criterion = DENSE if said.get("state") == DENSE else said.get("criterion", "pruned")
    known = {name: costs[name] for name in (*COSTS, "seq_len") if name in costs}
    return Measured(value, known, run.words, criterion, said.get("state") == "recovered")


def _group(key: tuple, texts: Mapping[str, dict], points: Iterable[Measured]) -> Group:
    model, metric = json.loads(key[0]), METRICS[key[2]]
    text = texts.get(key[1])
    said = f"text {key[1][:6]}"
    if text is not None:
        most = text.get("max_tokens")
        tokens = "all tokens" if most is None else f"{most:,} tokens"
        said = f"{text['text']}, window {text['window']}, {tokens}"
    name = f"{model['name']} ({model['dtype']})"
    order = sorted(points, key=lambda one: (not one.dense, -one.costs["parameters"], one.figure))
    return Group(name, said, metric, tuple(order))
