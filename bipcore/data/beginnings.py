"""The beginning-of-text token: where a text that is given to a model has one.

Models are trained on texts that begin with it, and some lean on it in every window: without it
Gemma's activations, and its perplexity, are those of another model.
"""

from ..errors import InputError

NONE, TEXT, WINDOW = "none", "text", "window"
BEGINNINGS = ("auto", NONE, TEXT, WINDOW)
"""What can be asked for. ``none``: nowhere. ``text``: before a text, as its tokenizer does it,
which may be not at all. ``window``: in every sample or window. ``auto``: `resolve_beginning`."""


def resolve_beginning(asked: str, *, leans: bool, otherwise: str) -> str:
    """``asked`` with "auto" replaced: "window" for a model that ``leans`` on it, ``otherwise``."""
    if asked != "auto":
        return asked
    return WINDOW if leans else otherwise


def before_text(tokenizer) -> list[int]:
    """The token ids that the tokenizer puts before a text by itself; often there are none."""
    plain = tokenizer("a", add_special_tokens=False, verbose=False)["input_ids"]
    whole = tokenizer("a", add_special_tokens=True, verbose=False)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[:start]
    return []


def before_window(tokenizer) -> list[int]:
    """The token ids that begin every window: what the tokenizer puts before a text, else its
    beginning-of-text token. Raises InputError where it has none."""
    if found := before_text(tokenizer):
        return found
    if tokenizer.bos_token_id is None:
        raise InputError(
            "The tokenizer has no beginning-of-text token to begin every window with; use none or "
            "text."
        )
    return [tokenizer.bos_token_id]


def said_beginning(kind: str, tokenizer) -> str:
    """What a result says of its text: ``kind``, or "none" where the tokenizer puts nothing before
    a text."""
    return NONE if kind == TEXT and not before_text(tokenizer) else kind


def said_of(kind: str) -> str:
    """A `said_beginning`, worded for people."""
    where = {NONE: "no", TEXT: "a text's", WINDOW: "every window's"}
    return f"{where[kind]} beginning-of-text token"
