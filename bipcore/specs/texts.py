"""Specs of texts: which one calibrates, and which one is measured on."""

import re
from dataclasses import asdict, dataclass

from ..data.beginnings import BEGINNINGS, said_of
from ..data.mixtures import identity_of, parts_of
from ..data.texts import FILES, NAMED, find_text
from ..errors import LARGEST_SEED
from ..settings import Checked, setting

TEXTS = f"{', '.join(NAMED)}, or a {FILES}."
"""The texts that may be named, for the help of an option."""

SHARES = "Several in shares: c4:0.7,wikitext2:0.3."
"""How a mixture is named, for the help of an option."""

TEXT_FIELD = "Where records (JSON, CSV, Parquet) have their text (default: text)."
"""What a text field is, for the help of an option."""


_TOKEN = "the beginning-of-text token"


def what_counts(said: dict, text: str) -> dict:
    """What is ``said`` of a spec, without what does not count: a text field where none is named, or
    the ``text`` is one of those that have a name, where there is none to choose; and a beginning of
    text that is left to the model."""
    no_field = not said["text_field"] or text in NAMED
    unsaid = {"text_field"} if no_field else set()
    unsaid |= {"beginning"} if said.get("beginning") == "auto" else set()
    return {key: value for key, value in said.items() if key not in unsaid}


@dataclass(frozen=True)
class CalibrationSpec(Checked):
    """Which text calibrates: ``samples`` of ``seq_len`` tokens (see `load_calibration`)."""

    source: str = setting(
        "builtin",
        "calibration text",
        f"{TEXTS} {SHARES}",
        label="Calibration text",
        hint=f"builtin is Python's language reference; or type the path of a {FILES}, or several "
        "in shares (c4:0.7,wikitext2:0.3). The others come from the folder BIPCORE_DATA, else from "
        "the hub.",
        offered=NAMED,
        flag="--calibration",
    )
    samples: int = setting(
        32, "number of calibration samples", "Calibration samples.", label="Samples", least=1
    )
    seq_len: int = setting(
        256,
        "length of a calibration sample",
        "Tokens in a calibration sample.",
        label="Tokens each",
        least=2,
    )
    seed: int = setting(
        0,
        "seed",
        "Seed that draws the calibration samples.",
        label="Seed",
        least=0,
        most=LARGEST_SEED,
    )

    text_field: str = setting(
        "",
        "text field",
        TEXT_FIELD,
        label="Text field",
        hint="Where the records of a JSON, CSV or Parquet file have their text; left empty, under "
        "text, or else under messages.",
    )
    beginning: str = setting(
        "auto",
        "beginning of text",
        f"Where {_TOKEN} stands: none, text (as the tokenizer begins one), window (in every "
        "sample), or auto.",
        label="Beginning of text",
        hint=f"Where {_TOKEN} stands: nowhere, before a text as its tokenizer has it, or in every "
        "sample. auto: in every sample for Gemma, which leans on it, else nowhere.",
        choices=BEGINNINGS,
        flag="--calibration-beginning",
    )

    def identity(self) -> dict:
        """The spec with the text's content; raises InputError where there is no such text."""
        content = _content(self.source)
        return what_counts(asdict(self), self.source) | {"content": content}

    def __str__(self) -> str:
        said = f"{self.source}, {self.samples} × {self.seq_len} tokens, seed {self.seed}"
        return said + ("" if self.beginning == "auto" else f", {said_of(self.beginning)}")


_SAID = re.compile(r"(.+), (\d+) × (\d+) tokens, seed (\d+)(?:, .*)?")


def calibration_of(said: str) -> CalibrationSpec | None:
    """The calibration set whose words (``str``) these are, but for its text field, and with the
    beginning of text left to the model; None where they are of none."""
    match = _SAID.fullmatch(said)
    if match is None:
        return None
    return CalibrationSpec(match[1], *(int(number) for number in match.groups()[1:]))


def _content(source: str) -> str:
    """What identifies the content of a calibration text, or of all of a mixture."""
    if parts := parts_of(source):
        return identity_of(parts, _content)
    return find_text(source, purpose="calibration").identity


PERPLEXITY = "perplexity"
"""The metric that is measured where none is named."""


@dataclass(frozen=True)
class EvaluationSpec(Checked):
    """Figures on the test text ``text``, its first ``max_tokens`` tokens (None: all).

    ``metrics`` are names of `evaluation.metrics.METRICS`. Each figure is stored by itself, so they
    are no part of the `identity` that it is found by.
    """

    text: str = setting("builtin", "test text", f"Test text: {TEXTS}", offered=NAMED)
    window: int = setting(512, "window", "Perplexity window, in tokens.", least=2)
    max_tokens: int | None = setting(
        4096,
        "number of test tokens",
        "Use the first so many tokens; 0 for all.",
        least=2,
        optional=True,
    )
    metrics: tuple[str, ...] = setting(
        (PERPLEXITY,), "metrics", "Metrics by name, with commas between."
    )
    text_field: str = setting("", "text field", TEXT_FIELD)
    beginning: str = setting(
        "auto",
        "beginning of text",
        f"Where {_TOKEN} of a test text stands: none, text (once, as the tokenizer has it), window "
        "(in every one), or auto.",
        choices=BEGINNINGS,
    )

    @property
    def facts(self) -> dict:
        """The spec as plain data; the metrics are named where they are not perplexity alone, and
        the field where there is one."""
        said = asdict(self)
        if set(self.metrics) == {PERPLEXITY}:
            del said["metrics"]
        if not self.text_field:
            del said["text_field"]
        if self.beginning == "auto":
            del said["beginning"]
        return said

    def identity(self) -> dict:
        """The text with its content; raises InputError where there is no such text."""
        said = {name: value for name, value in asdict(self).items() if name != "metrics"}
        content = find_text(self.text, purpose="test").identity
        return what_counts(said, self.text) | {"content": content}

    def asked(self) -> dict:
        """`identity`, and which metrics where `facts` names them: what all the figures together
        depend on."""
        named = {"metrics": sorted(set(self.metrics))} if "metrics" in self.facts else {}
        return self.identity() | named
