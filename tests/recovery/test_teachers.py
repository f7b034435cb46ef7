"""Distilling from what is stored of the dense model: the loss, the files, going on exactly."""

from dataclasses import replace

import pytest
import torch

from bipcore.errors import Cancelled, InputError
from bipcore.progress import silent
from bipcore.recovery.objectives import divergence
from bipcore.recovery.teachers import Top, read_teacher, top_divergence, top_of, write_teacher
from bipcore.recovery.training import recover
from bipcore.specs import RecoverySpec
from bipcore.store.resume import Checkpoints
from tests.helpers.recoveries import SPEC as TEXT
from tests.helpers.recoveries import TOKENS, pruned
from tests.helpers.tiny import one_thread, random_model, tiny_model, tiny_tokens  # noqa: F401

SPEC = replace(TEXT, objective="distill", teacher="stored")
LIVE = replace(SPEC, teacher="live")


def logits(*shape: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def plain(own: torch.Tensor, dense: torch.Tensor, count: int) -> torch.Tensor:
    """The divergence over the likeliest tokens and one of all others, position by position."""
    total = torch.zeros((), dtype=torch.float64)
    for z, y in zip(own.flatten(0, 1).double(), dense.flatten(0, 1).double(), strict=True):
        q, p = z.softmax(-1), y.softmax(-1)
        kept = sorted(range(len(p)), key=lambda v, p=p: -float(p[v]))[:count]
        for v in kept:
            total = total + p[v] * (p[v] / q[v]).log()
        others = [v for v in range(len(p)) if v not in kept]
        if others:
            mass = sum(p[v] for v in others)
            total = total + mass * (mass / sum(q[v] for v in others)).log()
    return total


@pytest.mark.parametrize("count", [1, 5, 12, 13])
def test_the_loss_and_its_gradient_are_those_of_a_plain_loop(count):
    own, dense = logits(2, 3, 13, seed=0).requires_grad_(), logits(2, 3, 13, seed=1)
    expected = plain(own, dense, count)
    (slope,) = torch.autograd.grad(2 * expected, own)
    found = top_divergence(own, top_of(dense, count))
    (got,) = torch.autograd.grad(2 * found, own)
    assert float(found.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    torch.testing.assert_close(got, slope.float(), rtol=1e-4, atol=1e-6)


def test_of_all_tokens_it_is_the_whole_divergence_and_of_fewer_less():
    own, dense = logits(2, 700, 80, seed=2).requires_grad_(), logits(2, 700, 80, seed=3)
    whole = divergence(own, dense)
    (slope,) = torch.autograd.grad(whole, own)
    found = [top_divergence(own, top_of(dense, count)) for count in (1, 8, 64, 80)]
    (same,) = torch.autograd.grad(found[-1], own)
    torch.testing.assert_close(found[-1], whole, rtol=1e-5, atol=0)
    torch.testing.assert_close(same, slope, rtol=1e-4, atol=1e-6)
    values = [float(one.detach()) for one in found]
    assert values == sorted(values)
    assert values[0] < 0.9 * values[-1]


def stored(tmp_path, dense, tokens=TOKENS, rows=3):
    folder = tmp_path / "teacher"
    folder.mkdir()
    write_teacher(folder, dense, tokens, rows=rows, progress=silent)
    return read_teacher(folder)


def test_what_is_read_is_what_the_dense_model_says(tmp_path, monkeypatch):
    monkeypatch.setattr("bipcore.recovery.teachers._POSITIONS", 5 * TOKENS.shape[1])
    dense = tiny_model("llama")
    teacher = stored(tmp_path, dense)
    assert len(list((tmp_path / "teacher").iterdir())) == 4  # of 16 samples, five in a file
    assert (len(teacher), teacher.vocabulary) == (16, 97)
    found = teacher.of([7, 0, 15], torch.device("cpu"))
    with torch.no_grad():
        probs = dense(TOKENS[[7, 0, 15]]).logits.flatten(0, 1).double().softmax(-1)
    likeliest = probs.sort(descending=True).values
    torch.testing.assert_close(found.log_probs.double().exp(), likeliest[:, :64], rtol=1e-4, atol=0)
    torch.testing.assert_close(
        probs.gather(1, found.tokens), found.log_probs.double().exp(), rtol=1e-4, atol=0
    )
    rest = likeliest[:, 64:].sum(1)
    torch.testing.assert_close(found.rest.double().exp(), rest, rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("train", ["lora", "blocks"])
def test_it_trains_without_a_dense_model_as_the_live_one_does(tmp_path, train):
    """The tiny vocabulary is of 97 tokens, of which 33 are put together."""
    dense = tiny_model("llama")
    how = {"train": train, "learning_rate": 1e-3 if train == "lora" else 1e-4, "epochs": 4}
    teacher = stored(tmp_path, dense)
    done = recover(pruned(), TOKENS, replace(SPEC, **how), teacher=teacher)
    live = recover(pruned(), TOKENS, replace(LIVE, **how), dense=dense)
    first, last = done.history[0], done.history[-1]
    assert first.validation == live.history[0].validation
    assert first.validation_kl <= live.history[0].validation_kl
    assert last.validation_kl < first.validation_kl
    assert last.validation_kl == pytest.approx(live.history[-1].validation_kl, rel=0.3)


def test_with_the_whole_vocabulary_training_is_the_live_one(tmp_path, monkeypatch):
    dense = tiny_model("llama")
    monkeypatch.setattr(
        "bipcore.recovery.teachers.top_of", lambda logits: top_of(logits, logits.shape[-1])
    )
    done = recover(pruned(), TOKENS, SPEC, teacher=stored(tmp_path, dense))
    live = recover(pruned(), TOKENS, LIVE, dense=dense)
    for name in ("loss", "validation_kl"):
        own, other = ([getattr(step, name) for step in run.history] for run in (done, live))
        assert [one is None for one in own] == [one is None for one in other]
        pairs = [pair for pair in zip(own, other, strict=True) if None not in pair]
        assert len(pairs) >= 4
        assert all(a == pytest.approx(b, rel=1e-4, abs=1e-6) for a, b in pairs)


def test_a_cancelled_run_goes_on_to_exactly_the_same_weights(store, tmp_path):
    spec, teacher = replace(SPEC, train="blocks", patience=9), stored(tmp_path, tiny_model("llama"))
    whole = recover(pruned(), TOKENS, spec, teacher=teacher)
    kept = Checkpoints(store, "this run")

    def progress(fraction: float, message: str) -> None:
        if message.startswith("Step 3 "):
            raise Cancelled

    with pytest.raises(Cancelled):
        recover(pruned(), TOKENS, spec, teacher=teacher, checkpoints=kept, progress=progress)
    done = recover(pruned(), TOKENS, spec, teacher=teacher, checkpoints=kept)
    assert done.history == whole.history
    assert all(torch.equal(value, whole.tensors[name]) for name, value in done.tensors.items())


def test_what_cannot_be_is_refused_in_a_sentence(tmp_path):
    with pytest.raises(InputError, match="that is needed; store it first"):
        recover(pruned(), TOKENS, SPEC, dense=tiny_model("llama"))
    with pytest.raises(InputError, match="goes with the objective distill alone"):
        replace(SPEC, objective="text")
    with pytest.raises(InputError, match="are not stored; use the teacher live"):
        replace(SPEC, hidden_weight=1.0)
    with pytest.raises(InputError, match="There is no teacher 'good'; there are live, stored"):
        replace(SPEC, teacher="good")
    config = tiny_model("llama").config
    config.vocab_size = 101
    with pytest.raises(InputError, match="101 tokens in its vocabulary and this one 97"):
        recover(pruned(), TOKENS, SPEC, teacher=stored(tmp_path, random_model(config)))


def test_recoveries_of_before_are_found_as_they_were():
    assert "teacher" not in RecoverySpec("builtin").identity()
    assert RecoverySpec("builtin", teacher="stored").identity()["teacher"] == "stored"


def test_one_position_by_hand():
    """p = (½, ¼, ¼), q uniform: of one token ½ log(½ / ⅓) + ½ log(½ / ⅔)."""
    dense = torch.tensor([[[0.5, 0.25, 0.25]]]).log()
    top = top_of(dense, 1)
    assert isinstance(top, Top)
    found = float(top_divergence(torch.zeros(1, 1, 3), top))
    assert found == pytest.approx(0.5 * torch.tensor(9 / 8).log().item(), rel=1e-5)
