"""Streaming moments against those of stored activations; and that a pass leaves no trace."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bipcore.criteria.moments import SecondMomentSums, collect_second_moments
from bipcore.criteria.statistics import (
    MOMENTS,
    MomentSums,
    Statistics,
    collect_statistics,
    one_pass,
)
from bipcore.data.samples import CalibrationSet
from bipcore.errors import Cancelled, InputError
from bipcore.models.adapters import Adapter
from tests.helpers.reference import reference_blocks
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

SITES = ("qkv", "o", "up", "down")


def _calibration(**sizes) -> CalibrationSet:
    return CalibrationSet.from_tokens(tiny_tokens(**sizes))


def _all_moments(statistics: Statistics) -> list[torch.Tensor]:
    return [
        getattr(getattr(block, site), moment)
        for block in statistics.blocks
        for site in SITES
        for moment in MOMENTS[site]
    ]


def _naive(x: torch.Tensor, site: str = "down") -> dict[str, torch.Tensor]:
    x = x.double()
    square = {"mean_square": x.square().mean(0)}
    return square | (
        {"mean": x.mean(0), "mean_abs": x.abs().mean(0)} if site in ("o", "down") else {}
    )


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def _fail_late(fraction: float, message: str) -> None:
    if fraction > 0:
        raise Cancelled


@pytest.mark.parametrize("name", FAMILIES)
def test_moments_equal_those_of_stored_activations(name):
    model = tiny_model(name)
    stored = reference_blocks(model, tiny_tokens())
    statistics = collect_statistics(model, _calibration())
    for block, reference in zip(statistics.blocks, stored, strict=True):
        for site in SITES:
            for moment, expected in _naive(reference.inputs[site], site).items():
                actual = getattr(getattr(block, site), moment)
                torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-6)


def test_moments_count_every_token_once_also_in_a_short_last_batch():
    model = tiny_model("llama")
    statistics = collect_statistics(model, _calibration(samples=5), batch_size=2)
    expected = _naive(reference_blocks(model, tiny_tokens(5))[2].inputs["down"])["mean_square"]
    assert statistics.tokens == 5 * 24
    torch.testing.assert_close(statistics.blocks[2].down.mean_square, expected, rtol=1e-5, atol=0)


@pytest.mark.parametrize("batch_size", [1, 2, 4, 6, 100])
def test_moments_do_not_depend_on_the_batch_size(batch_size):
    model = tiny_model("gemma3")
    one = collect_statistics(model, _calibration(), batch_size=3)
    other = collect_statistics(model, _calibration(), batch_size=batch_size)
    for a, b in zip(_all_moments(one), _all_moments(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_moments_are_float64_on_the_cpu():
    values = _all_moments(collect_statistics(tiny_model("opt"), _calibration()))
    assert {(v.dtype, v.device.type) for v in values} == {(torch.float64, "cpu")}


def test_moments_of_different_inputs_do_not_share_memory():
    values = _all_moments(collect_statistics(tiny_model("llama"), _calibration()))
    before = [value.clone() for value in values]
    values[0].fill_(7)
    assert all(torch.equal(a, b) for a, b in zip(values[1:], before[1:], strict=True))


def test_a_bfloat16_model_is_summed_in_float32_or_wider():
    model = tiny_model("llama").bfloat16()
    calibration = _calibration(samples=24, seq_len=100)
    stored = reference_blocks(model, calibration.tokens)[1].inputs["down"]
    block = collect_statistics(model, calibration, batch_size=24).blocks[1]
    for moment, expected in _naive(stored).items():
        actual = getattr(block.down, moment)
        torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5)


def test_the_model_runs_in_evaluation_mode():
    model = tiny_model("opt")
    assert model.config.dropout > 0
    quiet = collect_statistics(model, _calibration())
    noisy = collect_statistics(model.train(), _calibration())
    assert all(map(torch.equal, _all_moments(quiet), _all_moments(noisy)))


@pytest.mark.parametrize("training", [True, False])
def test_the_training_flag_is_restored(training):
    model = tiny_model("llama").train(training)
    collect_statistics(model, _calibration())
    assert {module.training for module in model.modules()} == {training}


def test_a_mixture_of_training_flags_is_restored():
    model = tiny_model("llama").train()
    model.model.layers[0].eval()
    before = [module.training for module in model.modules()]
    collect_statistics(model, _calibration())
    assert [module.training for module in model.modules()] == before


def test_the_training_flag_is_restored_after_an_exception():
    model = tiny_model("llama").train()
    with pytest.raises(Cancelled):
        collect_statistics(model, _calibration(), batch_size=1, progress=_fail_late)
    assert model.training


def test_no_hook_stays():
    model = tiny_model("phi3")
    collect_statistics(model, _calibration())
    assert _hooks(model) == 0


def test_no_hook_stays_after_a_progress_callable_raised():
    model = tiny_model("phi3")
    with pytest.raises(Cancelled):
        collect_statistics(model, _calibration(), batch_size=1, progress=_fail_late)
    assert _hooks(model) == 0


def test_no_hook_stays_after_the_model_raised():
    model = tiny_model("phi3")
    handle = model.model.layers[1].mlp.register_forward_pre_hook(lambda module, args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        collect_statistics(model, _calibration())
    handle.remove()
    assert _hooks(model) == 0


def test_hooks_of_the_user_stay_and_are_called():
    model = tiny_model("llama")
    calls = []
    model.model.layers[0].register_forward_pre_hook(lambda module, args: calls.append(1))
    collect_statistics(model, _calibration(samples=4), batch_size=2)
    assert (_hooks(model), len(calls)) == (1, 2)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_head_is_not_run(name):
    model = tiny_model(name)
    calls = []
    model.get_output_embeddings().register_forward_pre_hook(lambda module, args: calls.append(1))
    collect_statistics(model, _calibration())
    assert calls == []


def test_weights_and_gradients_are_not_touched():
    model = tiny_model("llama")
    before = {key: value.clone() for key, value in model.state_dict().items()}
    collect_statistics(model, _calibration())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


def test_progress_rises_from_0_to_1():
    seen = []
    collect_statistics(
        tiny_model("llama"), _calibration(), batch_size=2, progress=lambda f, text: seen.append(f)
    )
    assert seen == [0, pytest.approx(1 / 3), pytest.approx(2 / 3), 1]


@pytest.mark.parametrize("name", FAMILIES)
def test_samples_longer_than_the_model_reads_are_refused(name):
    with pytest.raises(InputError, match=r"129 tokens.*128 positions"):
        collect_statistics(tiny_model(name), _calibration(samples=1, seq_len=129))


def test_samples_as_long_as_the_model_reads_are_taken():
    for name in ("llama", "opt"):
        statistics = collect_statistics(tiny_model(name), _calibration(samples=1, seq_len=128))
        assert statistics.tokens == 128


@pytest.mark.parametrize("token", [97, 50_000, -1])
def test_ids_outside_the_vocabulary_are_refused(token):
    tokens = tiny_tokens()
    tokens[2, 5] = token
    with pytest.raises(InputError, match="vocabulary"):
        collect_statistics(tiny_model("llama"), CalibrationSet.from_tokens(tokens))


def test_the_largest_id_of_the_vocabulary_is_taken():
    tokens = tiny_tokens()
    tokens[0, 0] = 96
    assert collect_statistics(tiny_model("llama"), CalibrationSet.from_tokens(tokens)).tokens == 144


@pytest.mark.parametrize("batch_size", [0, -2])
def test_a_batch_size_below_1_is_refused(batch_size):
    with pytest.raises(InputError, match="at least 1"):
        collect_statistics(tiny_model("llama"), _calibration(), batch_size=batch_size)


def test_statistics_carry_the_fingerprint_of_their_calibration_set():
    statistics = collect_statistics(tiny_model("llama"), _calibration())
    assert statistics.fingerprint == _calibration().fingerprint


def test_statistics_survive_a_safetensors_file(tmp_path):
    statistics = collect_statistics(tiny_model("neox"), _calibration())
    save_file(statistics.to_tensors(), tmp_path / "statistics.safetensors")
    tensors = load_file(tmp_path / "statistics.safetensors")
    again = Statistics.from_tensors(tensors, statistics.fingerprint)
    assert (again.tokens, again.fingerprint) == (144, statistics.fingerprint)
    assert all(map(torch.equal, _all_moments(statistics), _all_moments(again)))
    assert len(again.blocks) == len(statistics.blocks)


def test_blocks_beyond_the_ninth_come_back_in_order():
    statistics = collect_statistics(tiny_model("llama"), _calibration())
    many = Statistics(statistics.blocks * 4, statistics.tokens, statistics.fingerprint)
    again = Statistics.from_tensors(many.to_tensors(), many.fingerprint)
    assert all(map(torch.equal, _all_moments(many), _all_moments(again)))


@pytest.mark.parametrize("name", FAMILIES)
def test_block_by_block_and_in_one_pass_with_second_moments_the_sums_are_the_same(name):
    model = tiny_model(name)
    calibration = CalibrationSet.from_tokens(tiny_tokens(5, 12))
    plain = collect_statistics(model, calibration, batch_size=2)
    moments = collect_second_moments(model, calibration, batch_size=2)
    adapter = Adapter(model)
    together, products = MomentSums(dict(enumerate(adapter.blocks))), SecondMomentSums(60)
    one_pass(adapter, calibration, together, products, batch_size=2)
    count = calibration.tokens.numel()
    both = Statistics(together.result(count), count, calibration.fingerprint)
    by_block = collect_statistics(model, calibration, batch_size=2, by_block=True)
    for found in (both, by_block):
        for key, value in plain.to_tensors().items():
            torch.testing.assert_close(found.to_tensors()[key], value, msg=f"{name}, {key}")
    separately = collect_second_moments(model, calibration, batch_size=2)
    for found in (products.result(count), separately):
        assert found.keys() == moments.keys()
        for key, value in moments.items():
            torch.testing.assert_close(found[key], value, msg=f"{name}, {key}")
