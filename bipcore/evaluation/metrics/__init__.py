"""What is measured of a model on a test text: the metrics, in the order in which they are shown.

To add one, write its file and list it here. It may import what the package `evaluation` may.
"""

import math
from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from ...data.beginnings import TEXT, resolve_beginning, said_beginning
from ...errors import InputError
from ...models.families import family_of
from ...models.running import check_vocabulary
from ...progress import Progress
from ...specs import EvaluationSpec
from .base import EVALUATIONS, Metric
from .divergence import AGREEMENT as _AGREEMENT
from .divergence import KL as _KL
from .passes import measure
from .perplexity import METRIC as _PERPLEXITY
from .perplexity import perplexity
from .texts import as_tokens, cut_windows, load_test_tokens

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in [
        _PERPLEXITY,
        _KL,
        _AGREEMENT,
    ]
}

__all__ = [
    "EVALUATIONS",
    "METRICS",
    "Metric",
    "chosen_metrics",
    "cut_windows",
    "figures",
    "find_metric",
    "load_test_tokens",
    "measure",
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


def figures(
    metrics: Sequence[Metric],
    model: nn.Module,
    tokenizer,
    spec: EvaluationSpec,
    *,
    dense: nn.Module,
    progress: Progress | None = None,
) -> dict[str, dict]:
    """The figures of ``model`` on the text of ``spec``, by the metrics' names, each as it is
    stored; from one pass. Raises InputError."""
    tokens, beginning = tokens_of(spec, model, tokenizer)
    how = {"window": spec.window, "dense": dense, "progress": progress}
    values = measure(metrics, model, tokens, **how)
    said = {"text": spec.text, "window": spec.window, "max_tokens": spec.max_tokens}
    said |= {"tokens": len(tokens), "beginning": beginning}
    return {
        name: {name: value, **said} | ({"note": _INFINITE} if math.isinf(value) else {})
        for name, value in values.items()
    }


_INFINITE = "The mean loss is finite, but too large for its exponential."


def tokens_of(
    spec: EvaluationSpec, model: nn.Module, tokenizer, own: str | None = None
) -> tuple[Tensor, str]:
    """The test text of ``spec``, or in its place the text ``own`` itself, as ``model`` is given it
    (n,), and where it has its beginning-of-text token. Raises InputError."""
    leans = family_of(model.config).leans_on_beginning
    kind = resolve_beginning(spec.beginning, leans=leans, otherwise=TEXT)
    how = {"max_tokens": spec.max_tokens, "window": spec.window, "beginning": kind}
    if own is not None:
        tokens = as_tokens(own, tokenizer, **how)
    else:
        tokens = load_test_tokens(spec.text, tokenizer, text_field=spec.text_field, **how)
    check_vocabulary(model, tokens, tokenizer)
    return tokens, said_beginning(kind, tokenizer)
