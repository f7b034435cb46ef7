"""Users' words on a page: shown as they are."""

import re

import pytest

from tests.helpers.apptest import read
from ui.words import items, paragraphs, plain

HOSTILE = (
    "![x](http://127.0.0.1:9/x.png)",
    "[a](javascript:alert(1))",
    "<img src=x onerror=alert(1)>",
    "<http://127.0.0.1:9>",
    "http://127.0.0.1:9/x www.example.com a@example.com",
    ":material/delete: :streamlit: :smile: :red[x] :blue-background[x]",
    "$\\sqrt{x}$ $$y$$",
    "*a* _b_ **c** __d__ ~~e~~ `f` ``g``",
    "&lt;b&gt; &#33;",
    "# title",
    "> quote",
    "- item",
    "1. item",
    "2) item",
    "=====",
    "a\\*b",
    "[/x] [red]",
)


@pytest.mark.parametrize("text", HOSTILE)
def test_what_is_read_is_what_was_written(text):
    assert read(plain(text)) == text


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_in_it_is_markdown(text):
    said = re.sub(r"\\.", "", plain(text))  # what is escaped is text
    assert re.search(r"[\\`*_\[\]<~$&]", said) is None
    assert re.search(r":[\w/]|www\.|@\w", said) is None
    assert re.match(r"\s*([#+=>-]|\d+[.)])", plain(text)) is None


def test_a_text_is_one_line_without_what_cannot_be_seen():
    assert plain("a\n\n# b\x1b") == "a\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}# b" + (
        "\N{REPLACEMENT CHARACTER}"
    )


def test_paragraphs_and_items_stay_apart():
    assert paragraphs("*a*\n\nb") == r"\*a\*" + "\n\nb"
    assert items(["*a*", "b"]) == "- \\*a\\*\n- b"
