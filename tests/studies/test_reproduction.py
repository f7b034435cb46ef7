"""Reproductions on tiny models: the rows, stored and gone on with, limited, and one that fails."""

import math
from dataclasses import replace

import pytest

from bipcore.errors import Cancelled, InputError
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import SEVEN, ModelSpec
from bipcore.store.kinds import Kind
from bipcore.store.runs import RunStore
from bipcore.studies.reproduction.rows import (
    REPRODUCTIONS,
    Measured,
    Row,
    measured_rows,
    read_row,
    row_data,
    spec_of,
)
from bipcore.studies.reproduction.run import run_reproduction
from bipcore.studies.reproduction.scale import Changes, configure
from bipcore.studies.reproduction.spec import RowKey, row_keys
from bipcore.views.reproduction import chart_title, opening, report_page, reproduction_charts
from bipcore.views.reproduction_tables import (
    columns_of,
    comparison_frame,
    readable,
    refused,
    sample_sizes,
)
from tests.helpers.folders import model_folder
from tests.helpers.papers import quick_tasks, texts_folder, tiny_spec
from tests.helpers.passes import counted_passes
from tests.helpers.tiny import one_thread as one_thread

OWN_TASKS = Pipeline.zero_shot
FEW = {"methods": ("llm-bip", "magnitude"), "sparsities": (0.5,)}
ROWS = [
    RowKey("dense"),
    RowKey("llm-bip", 0.5),
    RowKey("magnitude", 0.5),
    RowKey("llm-bip", 0.5, True),
    RowKey("magnitude", 0.5, True),
]


@pytest.fixture(scope="module", autouse=True)
def texts(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        folder = texts_folder(tmp_path_factory.mktemp("texts"))
        patch.setenv("BIPCORE_DATA", str(folder))
        patch.setattr(Pipeline, "zero_shot", quick_tasks)
        yield folder


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(model_folder(tmp_path_factory.mktemp("paper") / "model"))


@pytest.fixture(scope="module")
def whole(model, tmp_path_factory):
    """Table 1 at one sparsity, with tasks and fine-tuning: the spec, its rows, the store."""
    store = RunStore(tmp_path_factory.mktemp("store"))
    spec = tiny_spec("table1", model, tasks=True, **FEW)
    return spec, list(run_reproduction(Pipeline(store), spec)), store


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


def test_the_rows_come_in_the_order_of_the_table(whole):
    spec, rows, _ = whole
    assert [row.key for row in rows] == list(spec.rows) == ROWS
    assert not any(row.error for row in rows)


def test_a_row_has_perplexities_by_window_tasks_and_what_is_gone(whole):
    _, rows, _ = whole
    for row in rows:
        assert set(row.cells) == {"wikitext2@128", "ptb@128", *SEVEN, "average"}
        assert row.cells["ptb@128"].samples == 2048
    assert (rows[0].realised, rows[0].realised_total) == (0.0, 0.0)
    assert rows[1].realised == pytest.approx(0.5, abs=0.01)
    assert 0 < rows[1].realised_total < rows[1].realised


def test_a_row_says_what_the_pipeline_says(whole):
    spec, rows, store = whole
    pipeline, key = Pipeline(store), RowKey("llm-bip", 0.5)
    plan = pipeline.plan(spec.score_spec(key), spec.plan_spec(key))
    for recovery, row in ((None, rows[1]), (spec.recovery, rows[3])):
        found = pipeline.evaluate(spec.model, spec.texts[0], plan, recovery)
        assert row.cells["wikitext2@128"].value == found["perplexity"]
    assert rows[1].cells["wikitext2@128"] != rows[3].cells["wikitext2@128"]


def test_accuracies_are_in_per_cent_with_their_sizes_and_what_they_are(whole):
    _, rows, _ = whole
    cells = rows[0].cells
    assert cells["boolq"] == Measured(50.0, 3, 1000, "acc")
    assert cells["piqa"] == Measured(61.0, 3, 1000, "acc_norm")
    values = [cells[task].value for task in SEVEN]
    assert cells["average"].value == pytest.approx(sum(values) / 7)
    assert cells["average"].samples == 21
    assert "BoolQ 3 of 1,000 (acc), PIQA 3 of 1,000 (acc_norm)" in sample_sizes(rows)


def test_the_tasks_are_the_pipelines_own(pipeline, model, monkeypatch):
    monkeypatch.setattr(Pipeline, "zero_shot", OWN_TASKS)
    few = {"methods": ("magnitude",), "sparsities": (0.5,), "tuned": False}
    spec = tiny_spec("table1", model, tasks=True, limit=2, **few)
    spec = replace(spec, tasks=replace(spec.tasks, tasks=("piqa", "winogrande")))
    rows = list(run_reproduction(pipeline, spec))
    results = list(pipeline.zero_shot(spec.model, spec.tasks))
    assert not any(row.error for row in rows)
    for result, metric in zip(results, ("acc_norm", "acc"), strict=True):
        expected = Measured(100 * result.metrics[metric], 2, result.total, metric)
        assert rows[0].cells[result.task] == expected
    frame = comparison_frame(spec, rows)  # the published average is that of all seven
    assert frame[frame["column"] == "average"]["published"].isna().all()


def test_rows_survive_being_stored(whole):
    for row in whole[1]:
        assert read_row(row_data(row)) == row


def test_a_whole_run_is_read_without_a_forward_pass(whole):
    spec, rows, store = whole
    with counted_passes() as passes:
        assert list(run_reproduction(Pipeline(store), spec)) == rows
    assert passes == []


def test_measured_rows_are_listed_without_a_model(whole, monkeypatch):
    spec, rows, store = whole
    monkeypatch.setattr("bipcore.pipeline.workbench.load_found", None)
    (run,) = measured_rows(store, "table1")
    assert (run.model, run.limit) == (spec.model.name, 3)
    assert {row.key: row for row in run.rows} == {row.key: row for row in rows}
    assert readable(spec_of(run), run.rows)["Row"].tolist()[0] == "dense"
    assert measured_rows(store, "table2") == []


def test_a_listed_run_has_the_settings_it_was_measured_with(whole):
    spec, _, store = whole
    found = spec_of(measured_rows(store, "table1")[0])
    for name in ("calibration", "texts", "recovery", "limit", "preset"):
        assert getattr(found, name) == getattr(spec, name)
    assert found.tasks.limit == 3


@pytest.mark.parametrize("settings", [{"of": "another version"}, [], None])
def test_a_run_of_another_version_closes_no_list(store, settings):
    key = RowKey("dense")
    spec = {"reproduction": "table1", "row": {"method": "dense"}, "settings": settings}
    store.get(REPRODUCTIONS, spec, lambda: Row(key))
    store.get(Kind(REPRODUCTIONS.name), spec | {"row": 1}, lambda: {"of": "another version"})
    store.get(Kind(REPRODUCTIONS.name), [], lambda: {"of": "another version"})
    with pytest.warns(UserWarning, match="eft out"):
        assert measured_rows(store, "table1") == []


def test_a_cancelled_run_keeps_its_rows_and_goes_on(pipeline, model):
    spec = tiny_spec("table1", model, **FEW)

    def cancel(fraction, message):
        if "(4 of 5)" in message:
            raise Cancelled

    pipeline.progress.report_to(cancel)
    found = []
    with pytest.raises(Cancelled):
        found.extend(run_reproduction(pipeline, spec))
    assert pipeline.progress.bounds == (0, 1)
    (run,) = measured_rows(pipeline.store, "table1")
    assert {row.key for row in run.rows} == set(ROWS[:3])
    written = {path.name for path in (pipeline.store.root / REPRODUCTIONS.name).iterdir()}
    again = list(run_reproduction(Pipeline(pipeline.store), spec))
    assert [row.key for row in again] == ROWS
    assert written < {path.name for path in (pipeline.store.root / REPRODUCTIONS.name).iterdir()}


def test_progress_says_which_row_and_never_goes_back(pipeline, model):
    seen = []
    pipeline.progress.report_to(lambda fraction, message: seen.append((fraction, message)))
    spec = tiny_spec("table1", model, tuned=False, **FEW)
    list(run_reproduction(pipeline, spec))
    rows = [(fraction, message) for fraction, message in seen if " of 3)" in message]
    assert [f for f, _ in rows] == sorted(f for f, _ in rows)
    titles = [message.partition(" (")[0] for _, message in rows]
    assert list(dict.fromkeys(titles)) == ["dense", "llm-bip, 50 %", "magnitude, 50 %"]


def test_a_row_that_cannot_be_done_is_noted_and_the_others_go_on(pipeline, model, monkeypatch):
    def full(*arguments, **options):
        raise MemoryError

    monkeypatch.setattr("bipcore.criteria.llm_pruner.collect_gradients", full)
    methods = ("llm-pruner", "wanda")
    spec = tiny_spec("table3", model, methods=methods, sparsities=(0.2, 0.99))
    rows = {row.key: row for row in run_reproduction(pipeline, spec)}
    assert "not enough memory" in rows[RowKey("llm-pruner", 0.2)].error
    assert "ask for less" in rows[RowKey("wanda", 0.99)].error
    assert not rows[RowKey("wanda", 0.2)].error
    (run,) = measured_rows(pipeline.store, "table3")
    assert len(run.rows) == 2
    notes = refused(rows.values())
    assert any(note.startswith("llm-pruner, 20 %: There is not enough memory") for note in notes)
    table = readable(spec, list(rows.values()))
    assert "not done" not in table[table["Row"] == "wanda, 20 %"][""].tolist()
    assert "What could not be done" in report_page(spec, list(rows.values()))


def test_a_run_store_that_cannot_be_written_ends_the_run(pipeline, model, monkeypatch):
    running = run_reproduction(pipeline, tiny_spec("table1", model, **FEW))
    next(running)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bipcore.store.runs._write_result", full)
    with pytest.raises(InputError, match="No space left"):
        next(running)


def test_another_limit_makes_other_rows(pipeline, model):
    few = {"methods": ("magnitude",), "sparsities": (0.5,), "tuned": False}
    for limit in (2, 3):
        list(run_reproduction(pipeline, tiny_spec("table1", model, limit=limit, **few)))
    runs = measured_rows(pipeline.store, "table1")
    assert sorted(run.limit for run in runs) == [2, 3]


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"calibration": "/nowhere.txt"}, "/nowhere.txt"), ({"samples": 10**6}, "1000000 samples")],
)
def test_a_calibration_text_that_cannot_be_used_ends_the_run_at_once(
    pipeline, model, changes, said
):
    with pytest.raises(InputError, match=said):
        list(run_reproduction(pipeline, tiny_spec("table1", model, **FEW, **changes)))
    assert measured_rows(pipeline.store, "table1") == []


def test_seconds_of_pruning_are_measured_without_stored_scores(pipeline, model, monkeypatch):
    spec = tiny_spec("table4", model)
    for key in spec.rows:
        pipeline.scores(spec.score_spec(key))
    with counted_passes() as passes:
        rows = list(run_reproduction(pipeline, spec))
    assert [row.key.method for row in rows] == ["llm-pruner", "wanda", "llm-bip"]
    assert all(row.cells["seconds"].value > 0 for row in rows)
    assert rows[0].cells["seconds"].samples == 3
    assert len(passes) >= 3 * 2
    (run,) = measured_rows(pipeline.store, "table4")
    assert run.settings["machine"]["threads"] == 1
    assert run.settings["machine"]["device"]


def test_counts_of_table_5_are_exact_and_its_latency_is_measured(pipeline, model):
    spec = tiny_spec("table5", model)
    dense, fifth, half = run_reproduction(pipeline, spec)
    for row, sparsity in ((dense, 0.0), (fifth, 0.2), (half, 0.5)):
        plan = spec.plan_spec(RowKey("random", sparsity)) if sparsity else None
        profiles = pipeline.profile_shapes(spec.model, plan, seq_len=128)
        expected = profiles[1] or profiles[0]
        assert row.cells["params_billion"].value == expected.parameters / 1e9
        assert row.cells["macs_giga"].value == expected.macs / 1e9
        assert row.cells["latency_seconds"].value > 0
        assert row.cells["latency_seconds"].samples == 3
    assert readable(spec, [dense, fifth, half])["Row"].tolist()[::2] == ["dense", "20 %", "50 %"]


def test_a_figure_of_perplexity_has_its_points_as_rows_and_a_chart_a_column(pipeline, model):
    spec = tiny_spec("figure2", model, methods=("llm-bip", "magnitude"), sparsities=(0.2, 0.5))
    rows = list(run_reproduction(pipeline, spec))
    assert [row.key for row in rows] == row_keys(spec)
    assert all(set(row.cells) == {"wikitext2@128", "ptb@128"} for row in rows)
    assert list(reproduction_charts(spec, rows)) == ["wikitext2", "ptb"]
    (run,) = measured_rows(pipeline.store, "figure2")
    assert list(reproduction_charts(spec_of(run), run.rows)) == ["wikitext2", "ptb"]
    assert readable(spec, rows)[""].unique().tolist() == ["measured"]


def test_a_figure_of_sizes_has_a_row_a_size(pipeline, model):
    spec = tiny_spec("figure4", model, limit=9, sparsities=(0.5,))
    rows = list(run_reproduction(pipeline, spec))
    assert [row.key.samples for row in rows] == [None, 8, 9]
    assert list(reproduction_charts(spec, rows)) == ["wikitext2-50", "ptb-50"]


def test_reconstruction_errors_are_those_of_every_block(pipeline, model):
    spec = tiny_spec("figure3", model, sparsities=(0.5,))
    rows = list(run_reproduction(pipeline, spec))
    for row in rows:
        assert len(row.series["local"]) == 3
        assert row.cells["local"].value == pytest.approx(math.fsum(row.series["local"]) / 3)
    assert list(reproduction_charts(spec, rows)) == ["accumulated-50", "local-50"]


def test_another_model_is_compared_without_a_difference(whole):
    spec, rows, _ = whole
    frame = comparison_frame(spec, rows)
    assert frame["difference"].isna().all()
    assert frame["published"].notna().any()
    assert "difference" not in readable(spec, rows)[""].tolist()
    assert "is another model, so no difference is taken" in report_page(spec, rows)


@pytest.fixture
def llama():
    """Table 1 of the paper's own model, one row of which was measured."""
    spec = configure("table1", model=ModelSpec("huggyllama/llama-7b"), changes=Changes())
    cells = {"wikitext2@2048": Measured(5.68, 341469), "wikitext2@128": Measured(12.62, 341469)}
    return spec, [Row(RowKey("dense"), cells | {"boolq": Measured(75.0, 3270, 3270, "acc")})]


def lines_of(frame, row: str, column: str) -> dict:
    (line,) = frame[(frame["row"] == row) & (frame["column"] == column)].to_dict("records")
    return line


def test_a_difference_is_measured_minus_published_in_the_same_window(llama):
    spec, rows = llama
    frame = comparison_frame(spec, rows)
    line = lines_of(frame, "dense", "wikitext2@2048")
    assert (line["published"], line["measured"]) == (5.69, 5.68)
    assert line["difference"] == pytest.approx(-0.01)
    assert lines_of(frame, "dense", "boolq")["difference"] == pytest.approx(-1.5)
    other = lines_of(frame, "dense", "wikitext2@128")
    assert (math.isnan(other["published"]), other["measured"]) == (True, 12.62)


def test_a_perplexity_of_an_unknown_window_stands_in_all_and_is_marked(llama):
    spec, rows = llama
    frame = comparison_frame(spec, rows)
    for window in (128, 2048):
        line = lines_of(frame, "llm-bip, 20 %", f"wikitext2@{window}")
        assert (line["published"], line["window_stated"]) == (19.63, False)
    table = readable(spec, rows).set_index("Row")
    assert table.loc["llm-bip, 20 %", "WikiText-2, window 128"] == "19.63 ?"
    assert table.loc["llm-pruner, 20 %", "WikiText-2, window 128"] == "19.77"
    assert table.loc["llm-pruner, 20 %", "WikiText-2, window 2048"] == "-"


def test_charts_show_published_figures_beside_measured_ones(llama):
    spec, rows = llama
    charts = reproduction_charts(spec, rows)
    assert list(charts) == [*(c for c in columns_of(spec) if "@" in c), "average"]
    names = [trace.name for trace in charts["wikitext2@2048"].data]
    assert names == [
        "published, LLaMA-7B",
        "published, LLaMA-7B, window not stated",
        "measured, huggyllama/llama-7b",
    ]
    assert [trace.name for trace in charts["average"].data] == ["published, LLaMA-7B"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("ptb@128", "PTB, window 128"),
        ("average", "Average"),
        ("wikitext2-2048-50", "WikiText-2, window 2048, 50 %"),
        ("local-20", "Local, 20 %"),
    ],
)
def test_charts_are_called_as_people_call_them(name, said):
    assert chart_title(name) == said


def test_a_limited_run_is_not_called_the_benchmark(whole, llama):
    spec, rows, _ = whole
    assert "It is not the benchmark" in opening(spec, rows)
    assert "It is not the benchmark" not in opening(*llama)
    page = report_page(spec, rows)
    assert "limited to 3" in page
    for said in ("3 samples of 128 tokens of c4", "the first 3 rows", "window 128", "Versions"):
        assert said in page
