"""Settings in the address of a page."""

from dataclasses import replace

import pytest

from bipcore.settings import PRESETS
from ui.settings import Settings, from_query, preset_in_use, to_query, with_preset

HAND_MADE = "0123456789abcdef"
"""What a stored plan may be called."""


def test_the_defaults_leave_the_address_empty():
    assert to_query(Settings()) == {}
    assert from_query({}) == (Settings(), [])


def test_settings_survive_the_address():
    settings = replace(
        Settings(), model="owner/name", samples=7, sparsity=0.35, criterion="wanda", round_to=8
    )
    assert from_query(to_query(settings)) == (settings, [])


@pytest.mark.parametrize(
    "change",
    [
        {"floor": 0.35},
        {"compensation": "least-squares"},
        {"propagation": "pruned"},
        {"allocation": "global"},
        {"source": HAND_MADE},
    ],
)
def test_every_plan_option_survives_the_address_by_itself(change):
    settings = replace(Settings(), **change)
    assert to_query(settings) == {name: str(value) for name, value in change.items()}
    assert from_query(to_query(settings)) == (settings, [])
    for name, value in change.items():
        assert getattr(settings.plan_spec, name) == value


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_is_in_use_where_its_values_are_and_whatever_else_is_set(name):
    settings = replace(Settings(), model="owner/name", sparsity=0.35, seed=3, round_to=8)
    chosen = with_preset(replace(settings, source=HAND_MADE), PRESETS[name])
    assert preset_in_use(chosen) == name
    assert (chosen.model, chosen.sparsity, chosen.seed, chosen.round_to) == (
        "owner/name",
        0.35,
        3,
        8,
    )
    assert chosen.source == ""
    assert from_query(to_query(chosen)) == (chosen, [])


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_with_one_value_changed_is_none(name):
    chosen = with_preset(Settings(), PRESETS[name])
    assert preset_in_use(replace(chosen, protect_last=2)) is None
    assert preset_in_use(replace(chosen, source=HAND_MADE)) is None


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
        ("allocation", "even"),
        ("floor", "-0.1"),
        ("floor", "1.5"),
        ("floor", "nan"),
        ("compensation", "all"),
        ("propagation", "both"),
        ("source", "plan.json"),
        ("source", "../../0123456789"),
        ("source", "0123456789ABCDEF"),
        ("model", ""),
        ("colour", "red"),
    ],
)
def test_what_cannot_be_used_is_named_and_left_at_its_default(name, text):
    settings, problems = from_query({name: text, "seed": "3"})
    assert settings == replace(Settings(), seed=3)
    assert len(problems) == 1
    assert name in problems[0]
