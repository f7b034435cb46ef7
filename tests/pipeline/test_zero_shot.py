"""Zero-shot tasks through the pipeline: stored task by task, resumed, refused before loading."""

import pytest

from bipcore.errors import Cancelled, InputError
from bipcore.evaluation.zero_shot import run_task
from bipcore.pipeline.pipeline import Pipeline, measure_states
from bipcore.pipeline.recoveries import states_of
from bipcore.specs import (
    CalibrationSpec,
    ModelSpec,
    PlanSpec,
    RecoverySpec,
    ScoreSpec,
    ZeroShotSpec,
)
from bipcore.store.runs import RunStore
from tests.helpers.folders import byte_model, model_folder, text_tokenizer
from tests.helpers.tasks import ROWS, write_rows
from tests.helpers.tiny import one_thread  # noqa: F401

TASKS = ZeroShotSpec(("piqa", "boolq", "arc_easy"))
RECOVERY = RecoverySpec(
    source="builtin", samples=4, seq_len=16, batch_size=2, validation=2, learning_rate=3e-3
)


@pytest.fixture
def data(tmp_path, monkeypatch):
    folder = write_rows(tmp_path / "data")
    monkeypatch.setenv("BIPCORE_DATA", str(folder))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return folder


@pytest.fixture
def model(tmp_path, data) -> ModelSpec:
    return ModelSpec(str(model_folder(tmp_path / "model")), device="cpu")


@pytest.fixture
def pipeline(store) -> Pipeline:
    return Pipeline(store)


@pytest.fixture
def plan(pipeline, model):
    score = ScoreSpec(model, CalibrationSpec(samples=4, seq_len=16))
    return pipeline.plan(score, PlanSpec(sparsity=0.5))


@pytest.fixture
def measured(monkeypatch) -> list[str]:
    """The names of the tasks that are measured, as they are."""
    names = []

    def counted(model, tokenizer, task, **settings):
        result = run_task(model, tokenizer, task, **settings)
        names.append(task)
        return result

    monkeypatch.setattr("bipcore.pipeline.measuring.run_task", counted)
    return names


@pytest.fixture
def no_model(monkeypatch):
    """A function after which no model can be loaded any more."""

    def forbid():
        def load(*_, **__):
            raise AssertionError("a model was loaded")

        monkeypatch.setattr("bipcore.pipeline.workbench.load_found", load)

    return forbid


def again(pipeline: Pipeline) -> Pipeline:
    """Another pipeline over the same store, without a model in memory."""
    return Pipeline(RunStore(pipeline.store.root))


def test_the_results_are_those_of_run_task_in_the_order_asked_for(pipeline, model):
    results = list(pipeline.zero_shot(model, TASKS))
    assert [result.task for result in results] == list(TASKS.tasks)
    assert results == [run_task(byte_model(), text_tokenizer(), task) for task in TASKS.tasks]


def test_all_stored_loads_no_model(pipeline, model, no_model):
    first = list(pipeline.zero_shot(model, TASKS))
    no_model()
    assert list(again(pipeline).zero_shot(model, TASKS)) == first


def test_what_was_measured_before_a_cancel_is_not_measured_again(pipeline, model, measured):
    def stop(fraction: float, message: str) -> None:
        if message.startswith("boolq"):
            raise Cancelled

    pipeline.progress.report_to(stop)
    with pytest.raises(Cancelled):
        list(pipeline.zero_shot(model, TASKS))
    assert measured == ["piqa"]
    second = again(pipeline)
    assert len(list(second.zero_shot(model, TASKS))) == 3
    assert measured == ["piqa", "boolq", "arc_easy"]


def test_results_come_one_by_one_and_the_progress_is_put_back(pipeline, model, measured):
    results = pipeline.zero_shot(model, TASKS)
    assert measured == []
    assert next(results).task == "piqa"
    assert measured == ["piqa"]
    assert pipeline.progress.bounds == (0, 1)


def test_several_tasks_are_one_bar(pipeline, model):
    said = []
    pipeline.progress.report_to(lambda fraction, message: said.append(fraction))
    list(pipeline.zero_shot(model, TASKS))
    assert said == sorted(said)
    assert said[-1] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("other", "count"),
    [
        ({"batch_size": 2}, 1),
        ({"limit": 2}, 2),
        ({"num_fewshot": 1}, 2),
    ],
)
def test_what_changes_the_result_is_measured_again(pipeline, model, measured, other, count):
    for spec in (ZeroShotSpec(("piqa",)), ZeroShotSpec(("piqa",), **other)):
        list(pipeline.zero_shot(model, spec))
    assert len(measured) == count


def test_other_rows_are_measured_again(pipeline, model, measured, data):
    spec = ZeroShotSpec(("piqa",))
    list(pipeline.zero_shot(model, spec))
    write_rows(data, {"piqa": ROWS["piqa"][:2]})
    (second,) = pipeline.zero_shot(model, spec)
    assert (len(measured), second.samples) == (2, 2)


def test_every_state_has_a_result_of_its_own(pipeline, model, plan, measured):
    spec = ZeroShotSpec(("arc_easy",))
    states = [(), (plan,), (plan, RECOVERY)]
    results = [next(pipeline.zero_shot(model, spec, *state)) for state in states]
    assert measured == ["arc_easy"] * 3
    own = [
        run_task(pipeline.variant(model, *state), text_tokenizer(), "arc_easy") for state in states
    ]
    assert results == own


def test_the_states_are_measured_task_by_task_on_one_bar(pipeline, model, plan):
    said = []
    pipeline.progress.report_to(lambda fraction, message: said.append((fraction, message)))
    spec = ZeroShotSpec(("piqa", "boolq"))
    found = list(measure_states(pipeline, model, spec, states_of(plan)))
    assert [(state, result.task) for state, result in found] == [
        ("dense", "piqa"),
        ("pruned", "piqa"),
        ("dense", "boolq"),
        ("pruned", "boolq"),
    ]
    fractions = [fraction for fraction, _ in said]
    assert fractions == sorted(fractions)
    assert {message.partition(",")[0] for _, message in said} == {"dense", "pruned"}
    assert found[1][1] == next(again(pipeline).zero_shot(model, ZeroShotSpec(("piqa",)), plan))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"tasks": ("piqa", "no-such-task-4f1d")}, "no task 'no-such-task-4f1d'"),
        ({"tasks": ()}, "at least one"),
        ({"limit": 0}, "not 0"),
        ({"num_fewshot": -1}, "not -1"),
        ({"num_fewshot": 3}, "other rows"),
        ({"batch_size": 0}, "not 0"),
    ],
)
def test_what_is_wrong_is_refused_before_a_model_is_loaded(
    pipeline, model, no_model, settings, said
):
    no_model()
    with pytest.raises(InputError, match=said):
        pipeline.zero_shot(model, ZeroShotSpec(**settings))


def test_the_last_task_s_rows_are_checked_before_the_first_is_measured(
    pipeline, model, data, no_model
):
    no_model()
    write_rows(data, {"arc_easy": [{"question": "?"}]})
    with pytest.raises(InputError, match="has no field 'choices'"):
        pipeline.zero_shot(model, TASKS)
    (data / "tasks" / "arc_easy.jsonl").unlink()
    with pytest.raises(InputError, match=r"has no tasks/arc_easy\.jsonl, and the hub"):
        pipeline.zero_shot(model, TASKS)
    with pytest.raises(InputError, match="has no tasks/arc_easy"):
        measure_states(pipeline, model, TASKS, states_of())


def test_stored_results_are_read_without_their_rows(pipeline, model, data, monkeypatch, no_model):
    """Those of the hub: nothing says that they have changed there."""
    (data / "tasks" / "piqa.jsonl").unlink()
    spec = ZeroShotSpec(("piqa",))
    made = run_task(byte_model(), text_tokenizer(), "boolq")
    with monkeypatch.context() as patch:
        patch.setattr("bipcore.pipeline.measuring.run_task", lambda *_, **__: made)
        patch.setattr("bipcore.hub._unreachable", lambda: None)
        list(pipeline.zero_shot(model, spec))
    no_model()
    assert list(again(pipeline).zero_shot(model, spec)) == [made]
