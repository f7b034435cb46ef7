"""What a metric is: one figure of a model on a test text."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ...specs import PERPLEXITY
from ...store.kinds import Kind

EVALUATIONS: Kind[dict] = Kind("evaluations", "figures of a model on a test text", version=3)


def _mean(value: float) -> float:
    """A mean that is the figure itself."""
    return value


@dataclass(frozen=True)
class Metric:
    """A named figure of a model on a text. All that is said and done about a metric is here.

    ``name`` is what options, JSON keys, columns and the run store say: small letters, digits and
    hyphens. ``title`` is for people, and so are ``unit`` ("nats", "%"; empty where there is none),
    ``decimals`` and ``explanation``, a sentence on what it is.
    ``sums(logits, tokens, dense)``: what tokens (B, T) with their logits (B, T, V) add to a sum, a
    number or a tensor without axes, and how many things they add it for. ``dense`` are the logits
    of the dense model where the metric ``needs_dense`` (of the dense model itself its own), else
    None. ``figure`` makes the mean, over all windows of a text, into the figure in that unit.
    """

    name: str
    title: str
    sums: Callable[[Tensor, Tensor, Tensor | None], tuple[float | Tensor, int]]
    figure: Callable[[float], float] = _mean
    unit: str = ""
    decimals: int = 2
    lower_is_better: bool = True
    needs_dense: bool = False
    explanation: str = ""

    def __post_init__(self) -> None:
        if not re.fullmatch("[a-z][a-z0-9-]*", self.name):  # a column is its name, "_", a text's
            raise ValueError(f"{self.name!r} has more than small letters, digits and hyphens.")

    @property
    def heading(self) -> str:
        """The title with the unit, for axes and columns."""
        return f"{self.title}, {self.unit}" if self.unit else self.title

    @property
    def noun(self) -> str:
        """The title within a sentence: with a small letter, but for an abbreviation."""
        first = self.title.split()[0]
        return self.title if first.isupper() else self.title[0].lower() + self.title[1:]

    @property
    def identity(self) -> dict:
        """What tells its stored results from those of perplexity, which lie under no name."""
        return {} if self.name == PERPLEXITY else {"metric": self.name}

    def say(self, value: float, *, grouped: bool = False) -> str:
        """The figure for people; ``grouped``: with commas between thousands."""
        return f"{value:{',' if grouped else ''}.{self.decimals}f}"
