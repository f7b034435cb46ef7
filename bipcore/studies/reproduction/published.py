"""The figures that the LLM-BIP paper printed (arXiv 2412.06419), and what they can stand beside.

The CSV files in ``figures/`` are transcriptions of tables 1 to 5: perplexities, lower is better;
accuracies in per cent. Figures 2 to 4 were published as pictures, without printed numbers.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from ...errors import InputError

TABLES = (1, 2, 3, 4, 5)
TEXTS = {"wikitext2": "wikitext2_ppl", "ptb": "ptb_ppl"}
"""The column of each test text's perplexity, by the text's name."""

_FILES = {1: "zero_shot", 2: "zero_shot", 3: "zero_shot", 4: "pruning_seconds", 5: "compression"}
_FOLDER = Path(__file__).parent / "figures"
_MODELS = {
    "LLaMA-7B": ("llama-7b", "llama-7b-hf"),
    "Vicuna-7B": ("vicuna-7b", "vicuna-7b-v1.3"),
    "LLaMA-13B": ("llama-13b", "llama-13b-hf"),
}
_PRUNER_ROWS = ("random", "llm-pruner")


def published_rows(table: int) -> pd.DataFrame:
    """The rows of one of `TABLES` as they were printed, without the column ``table``.

    Tables 1 to 3: model, sparsity_percent, finetuned ("yes" or "no"), method ("dense" or the
    name of a criterion), wikitext2_ppl, ptb_ppl, the seven tasks by their names in lm_eval, and
    average. Table 4: model, method, seconds. Table 5: model, sparsity_percent, params_billion,
    macs_giga, latency_seconds. Raises InputError for a table that there is not.
    """
    if table not in TABLES:
        have = ", ".join(map(str, TABLES))
        raise InputError(f"The paper has no table {table!r} of figures; there are {have}.")
    rows = pd.read_csv(_FOLDER / f"{_FILES[table]}.csv")
    return rows[rows["table"] == table].drop(columns="table").reset_index(drop=True)


def paper_name(model: str) -> str | None:
    """What the paper calls the model ``model`` (a hub id or a folder, by its last part); None for
    a model that is not in it."""
    last = model.rstrip("/").rsplit("/", 1)[-1].partition("@")[0].lower()
    return next((name for name, known in _MODELS.items() if last in known), None)


def perplexity_window(table: int, row: Mapping[str, Any]) -> int | None:
    """The window, in tokens, that the perplexities of a published row were taken with; None where
    nothing says which."""
    if table != 1:
        return None
    if row["method"] == "dense":
        return 2048
    return 128 if row["method"] in _PRUNER_ROWS else None


def comparability(table: int, row: Mapping[str, Any]) -> str:
    """One sentence: what a published row may be compared with."""
    if table == 4:
        return (
            "Seconds on one A100 for 128 sentences of 512 tokens from C4: compare them with those "
            "of the same device only, and the methods of one device with each other."
        )
    if table == 5:
        return (
            "Parameters and MACs (of one sentence of 512 tokens) are counts and compare with any "
            "count; the latency is that of one A100."
        )
    window = perplexity_window(table, row)
    if window == 2048:
        return (
            "The perplexities are what windows of 2048 tokens give; with windows of 128 tokens "
            "the same dense model has 12.62 (WikiText-2) and 22.14 (PTB)."
        )
    if window == 128:
        return (
            "The perplexities are those of the LLM-Pruner paper, taken with windows of 128 tokens: "
            "compare them with a dense model of 12.62 / 22.14, not with the table's own dense row."
        )
    return (
        "The window of the perplexities is not stated: a measured one beside it agrees or "
        "disagrees only within what the window makes out."
    )


_PERPLEXITY = (
    "Perplexity depends on the window. Two are mixed in the paper's table 1: the dense LLaMA-7B "
    "row (5.69 on WikiText-2, 8.93 on PTB) is what windows of 2048 tokens give; the pruned rows "
    "of Random and LLM-Pruner are those of the LLM-Pruner paper, whose dense LLaMA-7B has 12.62 "
    "and 22.14 with windows of 128 tokens. The window of the other rows is not stated, so the "
    "published rows cannot all be compared with each other. Every measured perplexity names its "
    "window."
)
_ACCURACY = (
    "The tables do not say whether a task's accuracy is acc or acc_norm (by the length of the "
    "answer). What is measured here is acc_norm where the task has it, else acc."
)
_VICUNA = "The paper does not say which Vicuna-7B it used; version 1.3 is the one taken here."
_DAMAGED = (
    "The row of LLM-BIP at 50 % after fine-tuning is damaged in the copy the table was read from; "
    "it is left out."
)


def notes(table: int) -> tuple[str, ...]:
    """What to know about a table before comparing anything with it."""
    if table in (4, 5):
        return (comparability(table, {}), *((_VICUNA,) if table == 4 else ()))
    own = {1: (_DAMAGED,), 2: (_VICUNA,)}.get(table, ())
    return (_PERPLEXITY, _ACCURACY, *own)
