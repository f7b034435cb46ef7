"""Words of users on a page: drawn as they are, though Streamlit takes every text for Markdown."""

import re

from bipcore.errors import printable

_JOINER = "\N{WORD JOINER}"
"""Not seen, and of no width: it parts what would be found in a text after it was read."""


def plain(text: object) -> str:
    """``text``, on one line, as Markdown that shows just that: no picture is fetched for it, no
    link, formula, colour or symbol made of it."""
    said = re.sub(r"([\\`*_\[\]<~$&])", r"\\\1", printable(str(text)))
    said = re.sub(r"^(\s*)([#+=>-])", r"\1\\\2", said)
    said = re.sub(r"^(\s*\d+)([.)])", r"\1\\\2", said)
    return re.sub(r"(:|@|www)(?=\S)", rf"\1{_JOINER}", said, flags=re.IGNORECASE)


def paragraphs(text: str) -> str:
    """`plain` of each paragraph of ``text``."""
    return "\n\n".join(plain(one) for one in text.split("\n\n"))


def items(texts) -> str:
    """A list of ``texts`` as Markdown, each `plain`."""
    return "\n".join(f"- {plain(text)}" for text in texts)
