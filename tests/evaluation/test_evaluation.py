"""Perplexity against a naive loop, and the rules about windows."""

import math

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from torch import nn

from bipcore.errors import InputError
from bipcore.evaluation.metrics import figures, find_metric, load_test_tokens, perplexity
from bipcore.specs import EvaluationSpec
from tests.helpers.tiny import FAMILIES, tiny_model, tiny_tokens, word_tokenizer


@pytest.fixture(scope="module")
def model() -> nn.Module:
    return tiny_model("llama")


@torch.no_grad()
def _naive(model: nn.Module, tokens, window: int) -> float:
    """Token by token, each prediction from a forward pass over what is before it, in float64."""
    losses = []
    for start in range(0, len(tokens) - window + 1, window):
        row = tokens[start : start + window]
        for end in range(1, window):
            logits = model(input_ids=row[None, :end]).logits[0, -1].double()
            losses.append(-(logits - logits.logsumexp(0))[row[end]].item())
    return math.exp(sum(losses) / len(losses))


@pytest.mark.parametrize("name", FAMILIES)
def test_perplexity_is_that_of_a_naive_loop(name):
    model, tokens = tiny_model(name), tiny_tokens(1, 50)[0]
    expected = _naive(model, tokens, 12)
    assert perplexity(model, tokens, window=12) == pytest.approx(expected, rel=1e-5)


def test_perplexity_of_windows_of_any_length_is_that_of_float64():
    model, tokens = tiny_model("llama"), tiny_tokens(1, 1300, seed=4)[0]
    model.config.max_position_embeddings = 2048
    expected = _windows_at_once(model, tokens, 600)
    assert perplexity(model, tokens, window=600) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def _windows_at_once(model: nn.Module, tokens, window: int) -> float:
    """The same, a window a forward pass."""
    total, count = 0.0, 0
    for start in range(0, len(tokens) - window + 1, window):
        row = tokens[start : start + window]
        chances = model(input_ids=row[None]).logits[0].double().log_softmax(-1)
        total -= sum(chances[i, row[i + 1]].item() for i in range(window - 1))
        count += window - 1
    return math.exp(total / count)


def test_a_uniform_prediction_has_the_perplexity_of_the_vocabulary():
    model = tiny_model("llama")
    nn.init.zeros_(model.lm_head.weight)
    value = perplexity(model, tiny_tokens(1, 40)[0], window=20)
    assert value == pytest.approx(97, rel=1e-5)


def test_windows_do_not_see_each_other(model):
    tokens = tiny_tokens(1, 40)[0]
    swapped = torch.cat([tokens[20:], tokens[:20]])
    assert perplexity(model, tokens, window=20) == pytest.approx(
        perplexity(model, swapped, window=20), rel=1e-6
    )


def test_the_window_is_part_of_the_result(model):
    tokens = tiny_tokens(1, 40)[0]
    assert perplexity(model, tokens, window=20) != perplexity(model, tokens, window=10)


def test_the_tail_that_fills_no_window_is_left_out(model):
    tokens = tiny_tokens(1, 40)[0]
    other = torch.cat([tokens, tiny_tokens(1, 19, seed=8)[0]])
    assert perplexity(model, other, window=20) == perplexity(model, tokens, window=20)


def test_the_batch_size_does_not_matter(model):
    tokens = tiny_tokens(1, 90)[0]
    one = perplexity(model, tokens, window=18, batch_size=1)
    for many in (3, 5, 100, None):  # a last batch that is shorter, all at once, as many as fit
        found = perplexity(model, tokens, window=18, batch_size=many)
        assert found == pytest.approx(one, rel=1e-6)


def test_rows_of_tokens_are_read_as_one_text(model):
    tokens = tiny_tokens(4, 30)
    assert perplexity(model, tokens, window=40) == perplexity(model, tokens.view(-1), window=40)


@pytest.mark.parametrize("length", [0, 1, 19])
def test_fewer_tokens_than_a_window_are_refused_with_their_number(model, length):
    with pytest.raises(InputError, match=f"has {length} tokens, fewer than one window of 20"):
        perplexity(model, tiny_tokens(1, 19)[0, :length], window=20)


@pytest.mark.parametrize("window", [129, 1, 0, -5])
def test_a_window_that_the_model_cannot_read_is_refused(model, window):
    with pytest.raises(InputError, match=f"128 positions, not {window}"):
        perplexity(model, tiny_tokens(1, 300)[0], window=window)


@pytest.mark.parametrize("training", [True, False])
def test_the_training_flag_is_restored(training):
    model = tiny_model("opt").train(training)
    perplexity(model, tiny_tokens(1, 20)[0], window=20)
    assert model.training is training


def test_dropout_is_off_while_measuring():
    model = tiny_model("opt").train()
    tokens = tiny_tokens(1, 40)[0]
    assert perplexity(model, tokens, window=20) == perplexity(model, tokens, window=20)


def test_a_hopeless_model_has_infinite_perplexity():
    model = tiny_model("llama")
    model.lm_head.weight.data *= 1e4
    assert perplexity(model, tiny_tokens(1, 40)[0], window=20) == math.inf


def test_progress_runs_from_nothing_to_all(model):
    seen = []
    perplexity(model, tiny_tokens(1, 60)[0], window=20, progress=lambda f, m: seen.append(f))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0, 1)


@pytest.fixture
def text(tmp_path):
    file = tmp_path / "text.txt"
    file.write_text(" ".join(f"w{i}" for i in range(50)))
    return str(file)


def test_test_tokens_are_those_of_the_text(text):
    assert load_test_tokens(text, word_tokenizer()).tolist() == list(range(3, 53))


def test_max_tokens_keeps_the_first(text):
    tokens = load_test_tokens(text, word_tokenizer(), max_tokens=7)
    assert tokens.tolist() == list(range(3, 10))


def test_max_tokens_may_be_more_than_there_are(text):
    assert len(load_test_tokens(text, word_tokenizer(), max_tokens=1000)) == 50


@pytest.mark.parametrize("max_tokens", [1, 0, -3])
def test_too_few_test_tokens_are_refused(text, max_tokens):
    with pytest.raises(InputError, match="at least 2 tokens"):
        load_test_tokens(text, word_tokenizer(), max_tokens=max_tokens)


def test_the_beginning_of_text_token_stands_once_at_the_start(tmp_path):
    file = tmp_path / "text.jsonl"
    file.write_text('{"text": "w0 w1"}\n{"text": "w2"}\n')
    tokenizer = word_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 2)]
    )
    assert load_test_tokens(str(file), tokenizer).tolist() == [2, 3, 4, 5]


def test_the_demo_model_predicts_english_better_than_scrambled_english(demo):
    model, tokenizer = demo
    tokens = load_test_tokens("builtin", tokenizer, max_tokens=256)
    order = torch.randperm(256, generator=torch.Generator().manual_seed(0))
    text, scrambled = (perplexity(model, t, window=128) for t in (tokens, tokens[order]))
    assert text < 40 < scrambled


def test_a_token_without_an_embedding_is_named_with_its_text(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("w1 w2 w96 w3")
    spec = EvaluationSpec(str(path), window=2)
    model = tiny_model("llama")
    with pytest.raises(InputError, match=r"Token id 99 \('w96'\) is beyond .* vocabulary of 97"):
        figures([find_metric("perplexity")], model, word_tokenizer(200), spec, dense=model)
    with pytest.raises(InputError, match="Token id 99 is beyond"):
        perplexity(model, torch.tensor([3, 99]), window=2)
