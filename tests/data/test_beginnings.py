"""The beginning-of-text token: where samples and test texts have it, and who needs it."""

from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing

from bipcore.criteria.statistics import Statistics
from bipcore.data.beginnings import before_text, before_window, resolve_beginning, said_beginning
from bipcore.data.calibration import load_calibration, tokenize
from bipcore.errors import InputError
from bipcore.evaluation.metrics import load_test_tokens, perplexity
from bipcore.models.families import FAMILIES
from bipcore.pipeline.pipeline import Pipeline
from bipcore.specs import CalibrationSpec, EvaluationSpec, ModelSpec, PlanSpec, ScoreSpec
from bipcore.store.runs import RunStore
from tests.helpers.folders import model_folder, text_tokenizer
from tests.helpers.tiny import tiny_model, word_tokenizer


def begun_tokenizer(*, adds: bool):
    """A tokenizer with a beginning-of-text token, which it puts before a text by itself or not."""
    tokenizer = word_tokenizer(90)
    if adds:
        template = TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
        )
        tokenizer.backend_tokenizer.post_processor = template
    return tokenizer


@pytest.fixture
def text(tmp_path):
    """80 different words, none of them the beginning-of-text token."""
    file = tmp_path / "text.txt"
    file.write_text(" ".join(f"w{i}" for i in range(5, 85)))
    return str(file)


@pytest.fixture
def records(tmp_path):
    file = tmp_path / "records.jsonl"
    file.write_text("".join(f'{{"text": "w{i} w{i + 1}"}}\n' for i in range(5, 85, 2)))
    return str(file)


def calibrated(source: str, beginning: str, *, adds: bool = False, seq_len: int = 8):
    how = {"samples": 4, "seq_len": seq_len, "seed": 0, "beginning": beginning}
    return load_calibration(source, begun_tokenizer(adds=adds), **how)


def test_what_a_tokenizer_puts_before_a_text_is_found():
    bos = begun_tokenizer(adds=True).bos_token_id
    assert before_text(begun_tokenizer(adds=True)) == [bos]
    assert before_text(begun_tokenizer(adds=False)) == []
    assert before_window(begun_tokenizer(adds=False)) == [bos]
    assert said_beginning("text", begun_tokenizer(adds=False)) == "none"
    assert said_beginning("text", begun_tokenizer(adds=True)) == "text"


def test_a_tokenizer_without_one_cannot_begin_every_window():
    tokenizer = word_tokenizer()
    tokenizer.bos_token = None
    with pytest.raises(InputError, match="no beginning-of-text token"):
        before_window(tokenizer)


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("source", ["text", "records"])
def test_every_sample_begins_with_it_and_has_one_token_less_of_the_text(source, adds, request):
    path = request.getfixturevalue(source)
    found, plain = calibrated(path, "window", adds=adds), calibrated(path, "none", seq_len=7)
    bos = begun_tokenizer(adds=adds).bos_token_id
    assert found.tokens.shape == (4, 8)
    assert found.tokens[:, 0].tolist() == [bos] * 4
    assert torch.equal(found.tokens[:, 1:], plain.tokens)
    assert found.beginning == "window"
    assert found.fingerprint != plain.fingerprint


def test_every_document_begins_as_the_tokenizer_begins_it(records):
    tokenizer = begun_tokenizer(adds=True)
    bos, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokens = calibrated(records, "text", adds=True).tokens.flatten().tolist()
    assert tokens[0] == bos
    assert all(tokens[i + 1] == bos for i, token in enumerate(tokens[:-1]) if token == end)
    assert tokens.count(bos) > 5
    said = calibrated(records, "text", adds=False)
    assert said.beginning == "none"
    assert torch.equal(said.tokens, calibrated(records, "none").tokens)


def test_a_test_text_has_it_once_in_every_window_or_not_at_all(text):
    tokenizer = begun_tokenizer(adds=True)
    bos, words = tokenizer.bos_token_id, tokenize(tokenizer, Path(text).read_text())
    none = load_test_tokens(text, tokenizer, beginning="none")
    once = load_test_tokens(text, tokenizer)
    every = load_test_tokens(text, tokenizer, beginning="window", window=9)
    assert none.tolist() == words
    assert once.tolist() == [bos, *words]
    windows = every[: len(every) // 9 * 9].view(-1, 9)
    assert windows[:, 0].tolist() == [bos] * 10
    assert windows[:, 1:].flatten().tolist() == words
    assert len(load_test_tokens(text, tokenizer, beginning="window", window=9, max_tokens=20)) == 20


def test_perplexity_with_every_window_begun_predicts_every_word(text):
    """The first word of a window from the token alone: against one forward pass a window."""
    model, tokenizer = tiny_model("gemma2"), begun_tokenizer(adds=True)
    tokens = load_test_tokens(text, tokenizer, beginning="window", window=9)
    losses = []
    for window in tokens.view(-1, 9):
        logits = model(window[None]).logits[0].log_softmax(-1)
        losses += [-logits[i, window[i + 1]] for i in range(8)]
    expected = torch.stack(losses).mean().exp().item()
    assert len(losses) == 80
    assert perplexity(model, tokens, window=9) == pytest.approx(expected, rel=1e-5)


def test_only_gemma_leans_on_it():
    leaning = {name for name, family in FAMILIES.items() if family.leans_on_beginning}
    assert leaning == {"gemma", "gemma2", "gemma3_text"}
    assert resolve_beginning("auto", leans=True, otherwise="none") == "window"
    assert resolve_beginning("auto", leans=False, otherwise="text") == "text"
    assert resolve_beginning("none", leans=True, otherwise="text") == "none"


@pytest.mark.parametrize("name", ["gemma2", "llama"])
def test_a_pipeline_gives_each_model_what_it_leans_on_and_says_so(name, tmp_path):
    folder = model_folder(tmp_path / "model", name)
    tokenizer = text_tokenizer()
    tokenizer.bos_token = "!"
    tokenizer.save_pretrained(folder)
    pipeline = Pipeline(RunStore(tmp_path / "store"))
    model, calibration = ModelSpec(str(folder)), CalibrationSpec(samples=2, seq_len=16)
    leans = name == "gemma2"
    tokens = pipeline.bench.calibration(model, calibration)
    assert (tokens.tokens[:, 0] == tokenizer.bos_token_id).all() == leans
    spec = ScoreSpec(model, calibration)
    assert pipeline.scores(spec).beginning == ("window" if leans else "none")
    plan = pipeline.plan(spec, PlanSpec(sparsity=0.3))
    said = "every window's" if leans else "no"
    assert plan.spec["calibration_text"].endswith(f"seed 0, {said} beginning-of-text token")
    found = pipeline.evaluate(model, EvaluationSpec(window=16, max_tokens=64))
    assert found["beginning"] == ("window" if leans else "none")
    other = pipeline.evaluate(model, EvaluationSpec(window=16, max_tokens=64, beginning="none"))
    assert (other["perplexity"] != found["perplexity"]) == leans


def test_statistics_say_where_it_is(tmp_path):
    folder = model_folder(tmp_path / "model")
    pipeline = Pipeline(RunStore(tmp_path / "store"))
    calibration = CalibrationSpec(samples=2, seq_len=16)
    found = pipeline.statistics(ModelSpec(str(folder)), calibration)
    assert found.beginning == "none"
    again = Statistics.from_tensors(found.to_tensors(), found.fingerprint, beginning="none")
    assert again.beginning == "none"
