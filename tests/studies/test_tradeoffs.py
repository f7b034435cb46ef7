"""Quality against cost: what may be compared, and the frontier against a slow obvious one."""

import random

import pytest

from bipcore.evaluation.metrics import METRICS
from bipcore.kinds import KINDS
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import EvaluationSpec
from bipcore.store.runs import RunStore
from bipcore.studies.runs import list_runs
from bipcore.studies.tradeoffs import Measured, frontier, groups
from bipcore.views.tradeoffs import costs_of, tradeoff_chart, tradeoff_frame
from tests.helpers.folders import model_folder
from tests.helpers.runs import measured, model_spec
from tests.helpers.tiny import one_thread as one_thread


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    root = tmp_path_factory.mktemp("tradeoffs")
    store = RunStore(root / "store")
    pipeline = measured(store, model_folder(root / "model"))
    pipeline.evaluate(model_spec(root / "model"), EvaluationSpec(window=64, max_tokens=256))
    return store


@pytest.fixture(scope="module")
def found(store):
    return groups(list_runs(store, KINDS))


def test_what_is_measured_alike_is_one_group_with_each_state_once(found):
    sizes = [(group.metric.name, len(group.points)) for group in found]
    assert sorted(sizes) == [("kl", 2), ("perplexity", 1), ("perplexity", 4)]
    first = found[0]
    assert "perplexity on builtin, window 128, 256 tokens (4 points)" in str(first)
    assert [point.criterion for point in first.points] == [
        "dense",
        "magnitude",
        "llm-bip",
        "magnitude",
    ]
    parameters = [point.costs["parameters"] for point in first.points]
    assert parameters == sorted(parameters, reverse=True)
    assert all("macs" in point.costs for point in first.points)


def test_the_dense_point_is_that_of_the_evaluation_and_of_the_sweep(store, found):
    said = {"state": "dense", "window": 128}.items()
    dense = [run for run in list_runs(store, KINDS) if said <= run.settings.items()]
    values = [run.figures["perplexity"] for run in dense if "perplexity" in run.figures]
    assert values == [found[0].points[0].figure] * 2


@pytest.mark.parametrize("name", ["perplexity", "agreement"])
def test_the_frontier_is_what_no_other_point_beats(name):
    metric, draw = METRICS[name], random.Random(0)
    sign = 1 if metric.lower_is_better else -1
    for _ in range(50):
        points = [
            Measured(draw.randint(1, 9), {"macs": draw.randint(1, 9)}, str(index), "random")
            for index in range(draw.randint(0, 12))
        ]
        seen = {(point.costs["macs"], sign * point.figure) for point in points}
        best = {
            (cost, figure)
            for cost, figure in seen
            if not any(c <= cost and f <= figure and (c, f) != (cost, figure) for c, f in seen)
        }
        unknown = Measured(sign * -100.0, {}, "no cost", "random")
        line = frontier([*points, unknown], "macs", metric)
        assert [(point.costs["macs"], sign * point.figure) for point in line] == sorted(best)


def test_the_chart_shows_every_point_the_dense_one_first_and_the_frontier(found):
    group = found[0]
    assert list(costs_of(group)) == ["parameters", "macs"]
    chart, frame = tradeoff_chart(group, "macs"), tradeoff_frame(group, "macs")
    drawn = [trace for trace in chart.data if trace.mode == "markers"]
    assert drawn[0].name == "dense"
    assert sorted(y for trace in drawn for y in trace.y) == sorted(frame["perplexity"])
    line = next(trace for trace in chart.data if trace.mode == "lines")
    assert sorted(line.y) == sorted(frame[frame["on_frontier"]]["perplexity"])
    assert "calibrated on builtin" in drawn[2].text[0].replace("<br>", " ")
    assert "(128 tokens)" in chart.layout.xaxis.title.text


def test_a_model_that_was_changed_in_its_folder_is_another_group(tmp_path):
    store, folder = RunStore(tmp_path / "store"), tmp_path / "model"
    for seed in (0, 1):
        model_folder(folder, seed=seed)
        text = EvaluationSpec(window=16, max_tokens=64)
        Pipeline(store).evaluate(model_spec(folder), text)
    first, second = groups(list_runs(store, KINDS))
    assert first.model == second.model
    assert len({str(first), str(second)}) == 2
    assert first.points[0].figure != second.points[0].figure
