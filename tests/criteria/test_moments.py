"""Second moments: what they are, what they take, and that nothing is left behind."""

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bipcore.criteria.moments import (
    SecondMoments,
    collect_second_moments,
    count_held_out,
    second_moment_bytes,
)
from bipcore.criteria.statistics import collect_statistics
from bipcore.data.samples import CalibrationSet
from bipcore.errors import Cancelled, InputError
from bipcore.models.adapters import Adapter
from bipcore.pruning.plan import BlockPlan, PruningPlan
from bipcore.pruning.slicing import apply_plan
from tests.helpers.pruning import scores_of
from tests.helpers.reference_blocks import reference_blocks
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens
from tests.helpers.tiny import one_thread as one_thread

WHOLE = BlockPlan(tuple(range(8)), tuple(range(96)))


def _collect(model: nn.Module, tokens: Tensor, **options) -> dict[str, Tensor]:
    return collect_second_moments(model, CalibrationSet.from_tokens(tokens), **options)


def _naive(x: Tensor) -> Tensor:
    """The mean over tokens of every product of two channels, token by token."""
    total = torch.zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for row in x:
        total += torch.outer(row, row)
    return total / len(x)


def _hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@pytest.mark.parametrize("name", FAMILIES)
def test_they_are_the_mean_products_of_the_inputs_of_o_and_down(name):
    model, tokens = tiny_model(name), tiny_tokens(5, 20)
    found = _collect(model, tokens, batch_size=2)
    names = [f"{i}.{site}" for i in range(3) for site in ("down", "o")]
    assert sorted(found) == sorted([*names, *(f"{name}.held" for name in names), "tokens"])
    for index, block in enumerate(reference_blocks(model, tokens)):
        for site in ("o", "down"):
            expected = _naive(block.inputs[site])
            assert found[f"{index}.{site}"].dtype == torch.float32
            scale = float(expected.abs().max())
            torch.testing.assert_close(
                found[f"{index}.{site}"].double(), expected, rtol=1e-5, atol=1e-6 * scale
            )


@pytest.mark.parametrize("batch_size", [1, 3, 6, 50])
def test_the_batch_size_does_not_count(batch_size):
    model, tokens = tiny_model("qwen2"), tiny_tokens()
    for one, other in zip(
        _collect(model, tokens, batch_size=batch_size).values(),
        _collect(model, tokens).values(),
        strict=True,
    ):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(other.abs().max()))


def test_activations_of_a_narrow_type_are_summed_in_float32():
    model, tokens = tiny_model("llama").bfloat16(), tiny_tokens()
    found = _collect(model, tokens)["1.down"]
    expected = _naive(reference_blocks(model, tokens)[1].inputs["down"])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-5)


def test_the_diagonal_is_the_mean_square():
    model, tokens = tiny_model("opt"), tiny_tokens()
    statistics = collect_statistics(model, CalibrationSet.from_tokens(tokens))
    found = _collect(model, tokens)
    for index, block in enumerate(statistics.blocks):
        for site in ("o", "down"):
            diagonal = found[f"{index}.{site}"].diagonal().double()
            expected = getattr(block, site).mean_square
            torch.testing.assert_close(diagonal, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi3", "opt"])
def test_what_they_take_is_known_from_the_sizes(name):
    model = tiny_model(name)
    found = _collect(model, tiny_tokens())
    count = int(found.pop("tokens"))
    taken = sum(matrix.numel() * matrix.element_size() for matrix in found.values())
    assert sum(second_moment_bytes(Adapter(model).shape, count)) == taken


@pytest.mark.parametrize("batch_size", [1, 2, 5])
@pytest.mark.parametrize(("shape", "count"), [((5, 20), 20), ((1, 12), 2), ((2, 2), 0)])
def test_the_inputs_at_the_last_fifth_of_the_tokens_are_kept(batch_size, shape, count):
    model, tokens = tiny_model("qwen2"), tiny_tokens(*shape)
    found = SecondMoments(_collect(model, tokens, batch_size=batch_size).__getitem__)
    assert found.tokens == tokens.numel()
    for index, block in enumerate(reference_blocks(model, tokens)):
        for site in ("o", "down"):
            x = block.inputs[site]
            sample = found.sample(index, site)
            assert sample.held_out.shape == (count, x.shape[1])
            expected = x[len(x) - count :].float()
            torch.testing.assert_close(sample.held_out, expected, rtol=1e-4, atol=1e-5)


def test_no_more_are_kept_than_choose_a_ridge_well():
    assert [count_held_out(n) for n in (4, 5, 512, 8192, 10**6)] == [0, 1, 102, 1024, 1024]


@pytest.mark.parametrize("gone", ["attention", "ffn"])
def test_a_block_without_a_sublayer_has_an_empty_matrix_there(tmp_path, gone):
    keep = BlockPlan((), WHOLE.channels) if gone == "attention" else BlockPlan(WHOLE.heads, ())
    plan = PruningPlan(scores_of("llama").shape, (WHOLE, keep, WHOLE))
    model = apply_plan(tiny_model("llama"), plan)
    found = _collect(model, tiny_tokens())
    assert found["1.o" if gone == "attention" else "1.down"].shape == (0, 0)
    save_file(found, tmp_path / "moments.safetensors")
    again = SecondMoments.from_files([tmp_path / "moments.safetensors"])
    assert again.of(1, "o" if gone == "attention" else "down").shape == (0, 0)
    count = int(found.pop("tokens"))
    taken = sum(4 * m.numel() for m in found.values())
    assert sum(second_moment_bytes(plan.pruned_shape, count)) == taken


def test_a_file_is_read_one_matrix_at_a_time(tmp_path, monkeypatch):
    file = tmp_path / "moments.safetensors"
    found = _collect(tiny_model("llama"), tiny_tokens())
    save_file(found, file)
    lazy = SecondMoments.from_files([file])
    for index in range(3):
        for site in ("o", "down"):
            assert torch.equal(lazy.of(index, site), found[f"{index}.{site}"])
    monkeypatch.setattr("safetensors.torch.load_file", None)
    assert torch.equal(lazy.of(2, "down"), found["2.down"])


def test_a_file_that_is_removed_while_it_is_read_is_read_to_its_end(tmp_path):
    file = tmp_path / "moments.safetensors"
    found = _collect(tiny_model("llama"), tiny_tokens())
    save_file(found, file)
    read = SecondMoments.from_files([file])
    file.unlink()
    assert torch.equal(read.of(2, "down"), found["2.down"])


def test_the_model_stays_as_it_is():
    model = tiny_model("neox").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = _collect(model, tiny_tokens())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert _hooks(model) == 0
    assert not any(matrix.requires_grad for matrix in found.values())


def test_in_training_mode_the_same_is_collected():
    model, tokens = tiny_model("opt"), tiny_tokens()
    quiet, loud = _collect(model, tokens), _collect(model.train(), tokens)
    assert all(torch.equal(quiet[name], loud[name]) for name in quiet)


def test_a_cancelled_pass_leaves_no_hooks():
    def progress(fraction: float, message: str) -> None:
        if fraction > 0:
            raise Cancelled

    model = tiny_model("llama")
    with pytest.raises(Cancelled):
        _collect(model, tiny_tokens(), batch_size=2, progress=progress)
    assert _hooks(model) == 0


def test_progress_goes_from_nothing_to_all():
    seen = []
    _collect(
        tiny_model("llama"),
        tiny_tokens(),
        batch_size=2,
        progress=lambda fraction, message: seen.append(fraction),
    )
    assert seen == pytest.approx([0, 1 / 3, 2 / 3, 1])


@pytest.mark.parametrize(
    ("tokens", "options", "says"),
    [
        (tiny_tokens(2, 129), {}, "128 positions"),
        (torch.full((2, 8), 97), {}, "vocabulary"),
        (tiny_tokens(), {"batch_size": 0}, "batch size"),
    ],
)
def test_what_cannot_be_run_is_refused(tokens, options, says):
    with pytest.raises(InputError, match=says):
        _collect(tiny_model("llama"), tokens, **options)
