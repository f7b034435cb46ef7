"""Estimates: counted by hand, from configurations alone."""

import pytest

from bipcore.criteria import find_criterion
from bipcore.data.tasks import KNOWN
from bipcore.errors import InputError
from bipcore.evaluation.footprint import KERNELS
from bipcore.evaluation.profiling import device_name, machine, measure_speed
from bipcore.evaluation.workload import tokens_to_read
from bipcore.models.adapters import Adapter
from bipcore.models.loading import empty_model, load_config
from bipcore.specs import EvaluationSpec, ModelSpec
from bipcore.studies.reproduction.estimate import (
    REACHED,
    REQUESTS,
    counted_rows,
    duration,
    estimate,
    peak_memory,
    pruned_shape,
    sizes_of,
    steps,
)
from bipcore.studies.reproduction.scale import Changes, configure, fitted
from bipcore.studies.reproduction.spec import RowKey

LLAMA = "huggyllama/llama-7b"


@pytest.fixture(scope="module")
def shape():
    return sizes_of(ModelSpec(LLAMA))


def spec_of(name: str, **changes):
    return configure(name, model=ModelSpec(LLAMA, "cpu", memory="1TB"), changes=Changes(**changes))


def by_what(spec, shape, row: str) -> dict:
    return {step.what: step for step in steps(spec, shape) if step.row == row}


def test_the_bundled_demo_has_the_sizes_of_the_demo_model(demo):
    assert sizes_of(ModelSpec("demo")) == Adapter(demo[0]).shape


def test_table_5_is_counted_exactly(shape):
    rows = counted_rows(spec_of("table5"), shape)
    dense, fifth, half = ({name: cell.value for name, cell in row.cells.items()} for row in rows)
    assert dense["params_billion"] == pytest.approx(6.738415616, abs=1e-9)
    assert dense["macs_giga"] == pytest.approx(3451.543, abs=0.001)
    assert fifth["params_billion"] == pytest.approx(5.443, abs=0.001)
    assert half["macs_giga"] == pytest.approx(1759.33, abs=0.01)
    assert counted_rows(spec_of("table1"), shape) == []


def test_perplexity_takes_the_macs_of_all_its_windows(shape):
    spec = spec_of("table1", limit=50)
    step = by_what(spec, shape, "dense")["perplexity, wikitext2, window 128"]
    assert (step.tokens, step.macs) == (2048, 16 * shape.macs(128))


def test_a_whole_test_text_is_counted_by_its_length():
    assert tokens_to_read(EvaluationSpec("wikitext2", 128, None)) == round(1_290_590 / 3.8)
    assert tokens_to_read(EvaluationSpec("ptb", 128, 1000)) == 1000


def test_a_pruned_row_takes_the_macs_of_its_own_widths(shape):
    spec = spec_of("table1", limit=50)
    pruned = pruned_shape(spec, shape, RowKey("llm-bip", 0.5))
    assert pruned.parameters < 0.55 * shape.parameters
    step = by_what(spec, shape, "llm-bip, 50 %")["perplexity, ptb, window 2048"]
    assert step.macs == pruned.macs(2048)


def test_statistics_do_without_the_head_and_are_shared(shape):
    spec = spec_of("table1", limit=50)
    shared = by_what(spec, shape, "")
    assert set(shared) == {"statistics for wanda, llm-bip", "gradients for llm-pruner"}
    head = 32000 * 4096
    assert shared["statistics for wanda, llm-bip"].macs == 50 * (shape.macs(128) - 128 * head)
    assert shared["gradients for llm-pruner"].macs == 6 * 50 * shape.macs(128)


def test_in_table_4_every_method_has_passes_of_its_own(shape):
    names = [step.what for step in steps(spec_of("table4"), shape)]
    assert names == ["statistics for wanda", "statistics for llm-bip", "gradients for llm-pruner"]


def test_every_one_of_the_seven_tasks_is_known():
    assert REQUESTS.keys() == KNOWN.keys()


def test_a_task_takes_a_pass_for_every_answer(shape):
    spec = spec_of("table1", limit=50)
    step = by_what(spec, shape, "dense")["tasks, hellaswag"]
    length = REQUESTS["hellaswag"][1]
    assert (step.tokens, step.macs) == (50 * 4 * length, 200 * shape.macs(length))
    whole = by_what(spec_of("table1"), shape, "dense")["tasks, hellaswag"]
    assert whole.tokens == 10042 * 4 * length


def test_fine_tuning_takes_three_forward_passes_a_sample_and_looks_at_the_held_out(shape):
    spec = spec_of("table1", limit=50)
    step = by_what(spec, shape, "wanda, 20 %, tuned")["fine-tuning"]
    pruned = pruned_shape(spec, shape, RowKey("wanda", 0.2))
    looks = 2 * 8  # before and after: seven updates are fewer than the ten between two looks
    assert step.macs == (3 * 50 + looks) * pruned.macs(128)
    assert step.tokens == (50 + looks) * 128


def test_latency_takes_all_batches_and_a_warm_up(shape):
    step = by_what(spec_of("table5"), shape, "dense")["latency"]
    assert step.macs == (128 + 8) * shape.macs(512)


def test_a_row_that_no_plan_can_have_is_left_out(shape):
    spec = spec_of("table1", sparsities=(0.9999,), methods=("wanda",))
    assert pruned_shape(spec, shape, RowKey("wanda", 0.9999)) is None
    assert {step.row for step in steps(spec, shape)} == {"", "dense"}


def test_seconds_are_the_macs_over_the_speed_that_a_model_reaches(shape):
    found = estimate(spec_of("table1", limit=2), shape, speed=1e12)
    assert found.macs == sum(step.macs for step in found.steps)
    assert found.seconds == pytest.approx(found.macs / (REACHED * 1e12))
    assert "Roughly" in str(found)
    assert "1,000 G a second in a matrix product" in str(found)


def test_memory_is_at_least_the_weights_and_llm_pruners_gradients(shape):
    spec = spec_of("table4")
    gradients = find_criterion("llm-pruner").memory(shape, 512)
    counted = peak_memory(spec, shape) - 4 * shape.parameters - gradients
    assert KERNELS <= counted < KERNELS + 2**26  # and a tokenizer of 32,000 entries
    without = spec_of("table4", methods=("llm-bip",))
    assert 4 * shape.parameters < peak_memory(without, shape) < 10 * shape.parameters


def test_fine_tuning_takes_more_memory_than_the_pruned_model_alone(shape):
    tuned, other = (spec_of("table1", methods=("wanda",), tuned=tuned) for tuned in (True, False))
    assert peak_memory(tuned, shape) > peak_memory(other, shape)


@pytest.mark.parametrize("name", ["figure2", "figure3", "figure4"])
def test_figures_have_an_estimate_too(shape, name):
    spec = fitted(spec_of(name), shape.max_positions)
    assert estimate(spec, shape, speed=1e12).seconds > 60


def test_each_calibration_size_of_figure_4_is_a_pass_of_its_own(shape):
    scoring = [step for step in steps(spec_of("figure4"), shape) if not step.row]
    assert [step.tokens // 2048 for step in scoring] == [8, 16, 32, 64, 128, 256]


def test_the_speed_is_measured_on_the_device():
    import torch

    assert measure_speed("cpu", torch.float32, seconds=0.02) > 1e8
    assert machine("cpu")["device"] == device_name("cpu") != ""


def test_a_device_or_a_type_that_is_not_there_is_refused(shape):
    spec = configure("table5", model=ModelSpec(LLAMA, device="quantum"))
    with pytest.raises(InputError, match="no device"):
        estimate(spec, shape)
    with pytest.raises(InputError, match="no dtype"):
        ModelSpec(LLAMA, "cpu", "int3")


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.2, "a second"),
        (50, "50 seconds"),
        (600, "10 minutes"),
        (7300, "2 hours"),
        (1e6, "12 days"),
    ],
)
def test_durations_are_said_as_people_say_them(seconds, said):
    assert duration(seconds) == said


def test_a_model_of_unknown_configuration_is_refused():
    with pytest.raises(InputError, match="does not exist"):
        sizes_of(ModelSpec("/nowhere/model"))
    assert empty_model(load_config(LLAMA)).device.type == "meta"
