"""Tables and charts of zero-shot results, and what of the paper they may be compared with."""

import pytest

from bipcore.data.tasks import KNOWN
from bipcore.evaluation.zero_shot import TaskResult
from bipcore.specs import SEVEN
from bipcore.views.style import DENSE_COLOR, PRUNED_COLOR
from bipcore.views.zero_shot import (
    accuracy_chart,
    measured_rows,
    paper_rows,
    readable,
    results_frame,
    rows_note,
)


def result(task: str, acc: float, norm: float | None = None, **more) -> TaskResult:
    rows = KNOWN[task].rows
    metrics = {"acc": acc} | ({} if norm is None else {"acc_norm": norm})
    errors = dict.fromkeys(metrics, 0.02)
    return TaskResult(task, metrics, errors, **{"samples": rows, "total": rows} | more)


def seven(acc: float, **more) -> list[TaskResult]:
    return [result(task, acc, **more) for task in SEVEN]


BOTH = {
    "dense": [result("piqa", 0.7, 0.8), result("boolq", 0.5)],
    "pruned": [result("piqa", 0.6, 0.6), result("boolq", 0.55)],
}


def test_the_table_has_errors_differences_and_the_mean_of_what_counts():
    table = readable(BOTH)
    assert table["Task"].tolist() == ["piqa", "boolq", "mean of 2"]
    assert table["Dense acc"].tolist() == ["70.0 ± 2.0", "50.0 ± 2.0", ""]
    assert table["Pruned acc_norm"].tolist() == ["60.0 ± 2.0", "", "57.5"]
    assert table["Pruned − dense"].tolist() == ["-20.0", "+5.0", "-7.5"]


def test_a_state_that_is_not_through_has_no_mean():
    table = readable(BOTH | {"pruned": BOTH["pruned"][:1]})
    assert table["Dense acc_norm"].tolist()[-1] == "65.0"
    assert table["Pruned acc_norm"].tolist()[-1] == ""
    assert table["Pruned − dense"].tolist() == ["-20.0", "", ""]


def test_the_frame_says_which_metric_counts():
    frame = results_frame(BOTH)
    assert len(frame) == 6
    counting = frame[frame["counts"]]
    assert counting["metric"].tolist() == ["acc_norm", "acc", "acc_norm", "acc"]
    assert counting["value"].tolist() == [0.8, 0.5, 0.6, 0.55]


def test_a_part_of_a_task_is_never_called_the_benchmark():
    assert rows_note(BOTH) == "All rows of every task were measured."
    few = {"dense": [result("piqa", 0.5, samples=100), result("boolq", 0.5, num_fewshot=5)]}
    note = rows_note(few)
    assert "piqa 100 of 1,838 rows" in note
    assert "boolq" not in note
    assert "not the benchmark" in note
    assert "5 examples" in note


def test_the_chart_has_error_bars_in_the_house_s_colours():
    dense, pruned = accuracy_chart(results_frame(BOTH)).data
    assert (dense.name, pruned.name) == ("dense", "pruned")
    assert (dense.marker.color, pruned.marker.color) == (DENSE_COLOR, PRUNED_COLOR)
    assert list(dense.y) == pytest.approx([80.0, 50.0])
    assert list(pruned.error_y.array) == pytest.approx([2.0, 2.0])
    assert "1,838 rows" not in dense.hovertemplate
    assert list(dense.customdata[0]) == ["acc_norm", " ± 2.0", 1838, " of 1,838"]


def test_a_bar_without_a_standard_error_is_drawn():
    one = TaskResult("piqa", {"acc": 1.0}, {}, 1, None)
    (bar,) = accuracy_chart(results_frame({"dense": [one]})).data
    assert list(bar.y) == [100.0]
    assert list(bar.customdata[0]) == ["acc", "", 1, ""]


def compared(results, model="huggyllama/llama-7b", sparsity=0.2) -> dict[str, str]:
    rows = paper_rows(1, results, model, sparsity)
    return dict(zip(rows["row"], rows["compare"], strict=True))


def test_the_same_model_sparsity_and_all_rows_may_be_compared():
    said = compared({"dense": seven(0.6), "pruned": seven(0.5)})
    yes = {name for name, text in said.items() if text == "yes"}
    assert "LLaMA-7B, dense" in yes
    assert "LLaMA-7B, llm-bip at 20 %" in yes
    assert all(" at 50 %" not in name and "fine-tuned" not in name for name in yes)
    assert said["LLaMA-7B, llm-bip at 20 %, fine-tuned"] == "no: no recovered model was measured"


@pytest.mark.parametrize(
    ("results", "settings", "said"),
    [
        (seven(0.5), {"model": "demo"}, "no: another model"),
        (seven(0.5), {"sparsity": 0.25}, "no: another sparsity"),
        (seven(0.5), {"sparsity": None}, "no: another sparsity"),
        (seven(0.5, samples=100), {}, "no: not all rows"),
        (seven(0.5, num_fewshot=1), {}, "no: examples in the prompt"),
        (seven(0.5)[:6], {}, "no: not all seven tasks"),
    ],
)
def test_anything_else_may_not_and_the_row_says_why(results, settings, said):
    assert compared({"pruned": results}, **settings)["LLaMA-7B, llm-bip at 20 %"] == said


def test_measured_rows_have_the_paper_s_columns_and_a_mean_of_the_seven_only():
    frame = measured_rows({"dense": seven(0.6), "pruned": seven(0.5)[:6]})
    assert list(frame) == ["row", *SEVEN, "average"]
    assert frame["average"].tolist()[0] == pytest.approx(60.0)
    assert frame["average"].isna().tolist() == [False, True]
