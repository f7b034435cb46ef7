"""Exports without some of their sublayers as models: nothing to score there, and all else works."""

import csv
import json
import math
from pathlib import Path

import pytest

from bipcore.export.export import load_pruned, save_pruned
from bipcore.models.adapters import Adapter
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan
from bipcore.views import scores as drawn
from bipcore.views.scores import SCORED, extreme_scores, scores_frame, summary_frame
from tests.helpers.apptest import charts, errors, open_page
from tests.helpers.folders import byte_model, text_tokenizer
from tests.helpers.shapes import model_shape, random_scores

WHOLE = BlockPlan(tuple(range(8)), tuple(range(96)))
BLOCKS = (BlockPlan((), WHOLE.channels), WHOLE, BlockPlan((0, 1, 4, 6), ()))
"""The first block without attention, the last with half of the heads and no FFN."""
SETTINGS = ("--samples", "4", "--seq-len", "16")


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("gone") / "model"
    dense = byte_model()
    plan = PruningPlan(Adapter(dense).shape, BLOCKS)
    save_pruned(apply_plan(dense, plan), text_tokenizer(), folder, plan=plan)
    return str(folder)


@pytest.fixture(scope="module")
def scored():
    shape = model_shape(blocks=3, heads=8, kv_heads=8, width=8, hidden=64, channels=96)
    scores = random_scores(PruningPlan(shape, BLOCKS).pruned_shape)
    return scores, make_plan(scores, sparsity=0.3, allocation="global")


def test_the_model_is_one_that_no_stock_class_holds(model):
    assert "Llama" in type(load_pruned(model)[0]).__name__
    assert json.loads((Path(model) / "config.json").read_text())["block_configs"]


@pytest.mark.parametrize("criterion", ["llm-bip", "wanda-sp", "flap", "magnitude"])
def test_score_says_what_there_is(run_json, model, criterion):
    blocks = run_json("score", model, *SETTINGS, "--criterion", criterion)["blocks"]
    assert [len(block["heads"]) for block in blocks] == [0, 8, 4]
    assert [block["head_min"] is None for block in blocks] == [True, False, False]
    assert [block["ffn_median"] is None for block in blocks] == [False, False, True]


def test_score_prints_a_table_and_every_score(run, model, tmp_path):
    assert "nan" in run("score", model, *SETTINGS, "--csv", tmp_path / "s.csv")
    with (tmp_path / "s.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * (8 + 4) + 2 * 96


def test_it_can_be_pruned_further(run_json, model, tmp_path):
    options = ("--sparsity", 0.3, "--allocation", "global", "--window", 16, "--max-tokens", 64)
    found = run_json("prune", model, *SETTINGS, *options, "--output", tmp_path / "out")
    assert found["realised"] == pytest.approx(0.3, abs=0.03)
    errors = run_json("reconstruct", model, *SETTINGS, *options)["errors"]
    assert all(math.isfinite(row["local"]) for row in errors)


@pytest.mark.parametrize(("allocation", "last"), [("uniform", 2), ("paper", 1)])
def test_every_block_gives_a_share_of_what_it_has(run_json, model, allocation, last):
    options = ("--sparsity", 0.3, "--allocation", allocation)
    blocks = run_json("score", model, *SETTINGS, *options)["blocks"]
    assert [block["heads_removed"] for block in blocks] == [0, 2, last]
    channels = [block["channels_removed"] for block in blocks]
    assert channels[:2] == pytest.approx([0.3 * 96] * 2, abs=6)
    assert channels[2] == 0


def test_the_pages_show_it(model):
    app = open_page("app.py", model=model, sparsity="0.0")
    assert errors(app) == []
    assert charts(app) == 1
    words = next(m.value for m in app.markdown if "decoder blocks" in m.value)
    assert "0-8 query heads in 0-8 KV groups and 0-96 feed-forward channels" in words
    for options in ({"sparsity": "0.0"}, {"sparsity": "0.3", "allocation": "global"}):
        app = open_page("pages/scores.py", model=model, **options)
        assert errors(app) == []
        assert charts(app) == 4
        for kind in ("Query heads", "KV groups", "FFN channels"):
            app.segmented_control(key="kind").set_value(kind).run()
            assert not app.exception
            assert len(app.dataframe[0].value) > 0


def test_tables_have_no_rows_for_what_is_gone(scored):
    frame = scores_frame(*scored)
    assert set(frame[frame["kind"] == "head"]["block"]) == {1, 2}
    assert set(frame[frame["kind"] == "channel"]["block"]) == {0, 1}
    summary = summary_frame(*scored)
    assert summary["ffn_median"].isna().tolist() == [False, False, True]
    assert summary["head_max"].isna().tolist() == [True, False, False]
    for kind in SCORED:
        assert all(len(rows) for rows in extreme_scores(*scored, kind))


def test_a_block_without_channels_has_no_box(scored):
    figure = drawn.channel_distributions(*scored)
    assert [value is None for value in figure.data[0].median] == [False, False, True]
    assert figure.layout.yaxis.type == "log"
    assert all(len(trace.x) == 0 for trace in drawn.channel_histogram(*scored, 2).data)


def test_the_map_has_a_row_for_every_head_and_gaps_where_there_are_none(scored):
    rows = drawn.head_map(*scored).data[0].z
    assert len(rows) == 8
    assert [len(row) for row in rows] == [3] * 8
    assert [value is None for value in rows[0]] == [True, False, False]
    assert [value is None for value in rows[7]] == [True, False, True]
    assert sum(row[2] or 0 for row in rows) == pytest.approx(1)
