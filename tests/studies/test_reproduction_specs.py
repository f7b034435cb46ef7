"""Specs of reproductions: the package's own, changed, scaled down, and refused."""

import re

import pytest

from bipcore.errors import InputError
from bipcore.specs import SEVEN, EvaluationSpec, ModelSpec, RecoverySpec
from bipcore.studies.points import check_sweep
from bipcore.studies.reproduction.published import published_rows
from bipcore.studies.reproduction.scale import Changes, configure, fitted, sizes_sentence
from bipcore.studies.reproduction.spec import (
    RowKey,
    load_reproduction,
    names,
    parse_reproduction,
    row_keys,
)
from bipcore.views.reproduction_tables import published_cells

LLAMA = ModelSpec("huggyllama/llama-7b")


def configured(name: str, **changes):
    return configure(name, model=LLAMA, changes=Changes(**changes))


def test_every_table_and_figure_has_a_spec():
    assert names() == (*(f"table{i}" for i in range(1, 6)), "figure2", "figure3", "figure4")
    for name in names():
        assert load_reproduction(name).title.lower().startswith(re.sub(r"(\d)", r" \1", name))


@pytest.mark.parametrize("table", [1, 2, 3])
def test_the_rows_are_the_published_ones_and_those_that_the_source_lost(table):
    spec = load_reproduction(f"table{table}")
    published = {
        RowKey(row["method"], row["sparsity_percent"] / 100, row["finetuned"] == "yes")
        for row in published_rows(table).to_dict("records")
    }
    lost = {RowKey("llm-bip", 0.5, True)} if table == 1 else set()
    assert set(spec.rows) == published | lost
    assert spec.rows[0] == RowKey("dense")


@pytest.mark.parametrize("table", [1, 2, 3])
def test_tables_are_measured_as_the_paper_says(table):
    spec = load_reproduction(f"table{table}")
    assert (spec.calibration.source, spec.calibration.samples, spec.calibration.seq_len) == (
        "c4",
        128,
        2048,
    )
    assert {(t.text, t.window, t.max_tokens) for t in spec.texts} == {
        (text, window, None) for text in ("wikitext2", "ptb") for window in (128, 2048)
    }
    assert spec.tasks.tasks == SEVEN
    assert spec.tasks.limit is None
    if spec.tuned:
        assert spec.recovery == RecoverySpec(objective="text")


@pytest.mark.parametrize("table", [4, 5])
def test_costs_are_measured_on_128_samples_of_512_tokens(table):
    calibration = load_reproduction(f"table{table}").calibration
    assert (calibration.samples, calibration.seq_len) == (128, 512)


@pytest.mark.parametrize("table", [1, 2, 3, 4, 5])
def test_every_row_but_the_lost_one_has_published_figures(table):
    spec = load_reproduction(f"table{table}")
    without = [key for key in spec.rows if not published_cells(spec, key)]
    assert without == ([RowKey("llm-bip", 0.5, True)] if table == 1 else [])


def test_plans_are_those_of_the_paper_preset():
    spec = load_reproduction("table1")
    plan = spec.plan_spec(RowKey("flap", 0.5))
    assert (plan.sparsity, plan.allocation, plan.compensation) == (0.5, "auto", "auto")
    assert load_reproduction("table5").plan_spec(RowKey("llm-bip", 0.2)).allocation == "uniform"


@pytest.mark.parametrize("name", ["figure2", "figure4"])
def test_figures_of_perplexity_are_right_sweeps_and_say_that_no_number_was_printed(name):
    spec = load_reproduction(name)
    check_sweep(spec.sweep)
    assert {text.text for text in spec.texts} == {"wikitext2", "ptb"}
    assert any("without printed numbers" in note for note in spec.notes)
    keys = row_keys(spec)
    assert keys[0] == RowKey("dense")
    assert len(keys) == 1 + (6 * 7 if name == "figure2" else 2 * 6)


def test_a_limit_scales_everything_down():
    spec = configured("table1", limit=50)
    assert spec.tasks.limit == 50
    assert (spec.calibration.samples, spec.calibration.seq_len) == (50, 128)
    assert {text.max_tokens for text in spec.texts} == {2048}
    recovery = spec.recovery
    assert (recovery.samples, recovery.seq_len, recovery.batch_size) == (50, 128, 8)
    assert recovery.validation == 8
    assert spec.rows == load_reproduction("table1").rows


def test_a_large_limit_never_takes_more_than_the_paper():
    spec = configured("table1", limit=10**6)
    assert spec.calibration.samples == 128
    assert spec.recovery.samples == 20_000


def test_a_limit_keeps_the_sentences_of_the_published_macs():
    assert configured("table5", limit=5).calibration.seq_len == 512
    assert configured("table5", limit=5).calibration.samples == 5


def test_a_limit_leaves_no_calibration_size_above_it():
    assert configured("figure4", limit=20).sizes == (8, 16, 20)


def test_what_is_said_counts_more_than_the_limit():
    spec = configured("table1", limit=4, samples=9, seq_len=33, calibration="builtin")
    calibration = spec.calibration
    assert (calibration.source, calibration.samples, calibration.seq_len) == ("builtin", 9, 33)


def test_chosen_methods_stay_where_the_table_has_them_and_others_come_everywhere():
    spec = configured("table1", methods=("flap", "random"))
    assert spec.rows == (
        RowKey("dense"),
        RowKey("flap", 0.2),
        RowKey("random", 0.2),
        RowKey("flap", 0.2, True),
        RowKey("flap", 0.5),
        RowKey("random", 0.5),
        RowKey("flap", 0.5, True),
    )


def test_a_sparsity_that_the_table_does_not_have_gets_all_methods():
    spec = configured("table3", sparsities=(0.3, 0.7))
    assert {key.sparsity for key in spec.rows[1:]} == {0.3, 0.7}
    assert len(spec.rows) == 1 + 6 + 3


def test_tasks_and_tuned_rows_can_be_left_out():
    spec = configured("table1", tasks=False, tuned=False)
    assert spec.tasks is None
    assert not any(key.tuned for key in spec.rows)


def test_windows_longer_than_the_model_reads_are_left_out_with_a_note():
    spec = fitted(configured("table1"), 512)
    assert {text.window for text in spec.texts} == {128}
    assert any("windows of 2,048 tokens are left out" in note for note in spec.notes)
    assert spec.calibration.seq_len == 512
    assert any("shortened to 512" in note for note in spec.notes)
    assert fitted(configured("table1"), None) == configured("table1")


def test_where_no_window_fits_the_longest_that_does_is_taken():
    assert fitted(configured("figure3"), 64).texts == (
        EvaluationSpec("wikitext2", 64, 16384, beginning="text"),
    )


@pytest.mark.parametrize("name", names())
def test_the_sizes_are_said_in_one_sentence(name):
    sentence = sizes_sentence(configured(name, limit=50))
    assert sentence.endswith(".")
    assert sentence[0].isupper() or sentence[0].isdigit()
    assert "50" in sentence
    if name == "table1":
        assert "the first 50 rows of each of 7 tasks" in sentence


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("table9", {}, "no reproduction 'table9'; there are table1"),
        ("table1", {"limit": 0}, "at least 1 row"),
        ("table1", {"limit": -5}, "not -5"),
        ("table1", {"methods": ("no-such",)}, "no criterion 'no-such'"),
        ("table1", {"sparsities": (1.5,)}, "not 1.5"),
        ("table1", {"samples": 0}, "at least 1, not 0"),
        ("figure2", {"methods": ("no-such",)}, "no criterion 'no-such'"),
        ("table4", {"tuned": False, "sparsities": (-0.2,)}, "not -0.2"),
    ],
)
def test_wrong_changes_are_refused(name, changes, said):
    with pytest.raises(InputError, match=said):
        configured(name, **changes)


RIGHT = {
    "title": "T",
    "shows": "S",
    "kind": "seconds",
    "models": ["demo"],
    "calibration": {"samples": 2},
    "groups": [{"sparsity": 0.2, "tuned": False, "methods": ["llm-bip"]}],
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"kind": "no-such"}, "of kind 'no-such'"),
        ({"preset": "no-such"}, "no preset 'no-such'"),
        ({"allocation": "no-such"}, "no allocation 'no-such'"),
        ({"no_such": 1}, "not complete or names what it should not"),
        ({"models": []}, "not complete"),
        ({"calibration": {"size": 3}}, "not complete"),
        ({"groups": []}, "left to measure"),
        ({"groups": [{"sparsity": 0.2, "tuned": True, "methods": ["wanda"]}]}, "recovery"),
        ({"texts": ["ptb"], "windows": [1]}, "at least 2, not 1"),
    ],
)
def test_a_spec_that_is_wrong_is_refused(changes, said):
    assert parse_reproduction("mine", RIGHT).rows == (RowKey("llm-bip", 0.2),)
    with pytest.raises(InputError, match=said):
        parse_reproduction("mine", RIGHT | changes)
