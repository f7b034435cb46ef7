"""Settings in the address of a page."""

from dataclasses import replace

import pytest

from ui.settings import Settings, from_query, to_query


def test_the_defaults_leave_the_address_empty():
    assert to_query(Settings()) == {}
    assert from_query({}) == (Settings(), [])


def test_settings_survive_the_address():
    settings = replace(
        Settings(), model="owner/name", samples=7, sparsity=0.35, criterion="wanda", round_to=8
    )
    assert from_query(to_query(settings)) == (settings, [])


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sparsity", "-0.1"),
        ("sparsity", "1.0"),
        ("sparsity", "abc"),
        ("sparsity", "nan"),
        ("samples", "0"),
        ("samples", "many"),
        ("seq_len", "1"),
        ("protect_first", "-1"),
        ("criterion", "best"),
        ("unit", "tail"),
        ("round_to", "7"),
        ("model", ""),
        ("colour", "red"),
    ],
)
def test_what_cannot_be_used_is_named_and_left_at_its_default(name, text):
    settings, problems = from_query({name: text, "seed": "3"})
    assert settings == replace(Settings(), seed=3)
    assert len(problems) == 1
    assert name in problems[0]
