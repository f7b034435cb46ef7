"""What is measured of a model on a test text: the metrics, in the order in which they are shown.

To add one, write its file and list it here. It may import what the package `evaluation` may.
"""

import math
from collections.abc import Iterable

from torch import Tensor, nn

from ...data.beginnings import TEXT, resolve_beginning, said_beginning
from ...errors import InputError
from ...models.families import family_of
from ...models.running import check_vocabulary
from ...progress import Progress
from ...specs import EvaluationSpec
from .base import EVALUATIONS, Metric
from .perplexity import METRIC as _PERPLEXITY
from .perplexity import perplexity
from .texts import cut_windows, load_test_tokens

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        _PERPLEXITY,
    ]
}

__all__ = [
    "EVALUATIONS",
    "METRICS",
    "Metric",
    "chosen_metrics",
    "cut_windows",
    "figure",
    "find_metric",
    "load_test_tokens",
    "perplexity",
    "tokens_of",
]


def find_metric(name: str) -> Metric:
    """The metric called ``name``; raises InputError with the known names."""
    if name not in METRICS:
        raise InputError(f"There is no metric {name!r}; there are {', '.join(METRICS)}.")
    return METRICS[name]


def chosen_metrics(names: Iterable[str]) -> list[Metric]:
    """The metrics with these names, each once, in the order in which they are shown.

    Raises InputError for an unknown name, or where there is none.
    """
    wanted = {find_metric(name).name for name in names}
    if not wanted:
        raise InputError("The list of metrics is empty; give at least one.")
    return [metric for name, metric in METRICS.items() if name in wanted]


def figure(
    metric: Metric,
    model: nn.Module,
    tokenizer,
    spec: EvaluationSpec,
    *,
    dense: nn.Module,
    progress: Progress | None = None,
) -> dict:
    """One figure of ``model`` on the text of ``spec``, as it is stored. Raises InputError."""
    tokens, beginning = tokens_of(spec, model, tokenizer)
    beside = dense if metric.needs_dense else None
    value = metric.measure(model, tokens, window=spec.window, dense=beside, progress=progress)
    said = {"text": spec.text, "window": spec.window, "max_tokens": spec.max_tokens}
    said |= {"tokens": len(tokens), "beginning": beginning}
    return {metric.name: value, **said} | ({"note": _INFINITE} if math.isinf(value) else {})


_INFINITE = "The mean loss is finite, but too large for its exponential."


def tokens_of(spec: EvaluationSpec, model: nn.Module, tokenizer) -> tuple[Tensor, str]:
    """The test text of ``spec`` as ``model`` is given it (n,), and where it has its
    beginning-of-text token. Raises InputError."""
    leans = family_of(model.config).leans_on_beginning
    kind = resolve_beginning(spec.beginning, leans=leans, otherwise=TEXT)
    how = {"max_tokens": spec.max_tokens, "text_field": spec.text_field, "window": spec.window}
    tokens = load_test_tokens(spec.text, tokenizer, beginning=kind, **how)
    check_vocabulary(model, tokens, tokenizer)
    return tokens, said_beginning(kind, tokenizer)
