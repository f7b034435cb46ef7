"""Calibration sets: how samples are cut, that they come again, and what is refused."""

from itertools import pairwise

import pytest
import torch

from bipcore.data.calibration import load_calibration, tokenize
from bipcore.data.samples import CalibrationSet
from bipcore.errors import InputError
from tests.helpers.tiny import byte_tokenizer, tiny_tokens, word_tokenizer

WORDS = 1000


def _load(source, *, samples=5, seq_len=16, seed=0, tokenizer=None) -> CalibrationSet:
    tokenizer = tokenizer or word_tokenizer()
    return load_calibration(str(source), tokenizer, samples=samples, seq_len=seq_len, seed=seed)


@pytest.fixture
def numbered(tmp_path):
    """A text file of 1000 different words: w0 w1 w2 ..."""
    path = tmp_path / "numbered.txt"
    path.write_text(" ".join(f"w{i}" for i in range(WORDS)))
    return path


@pytest.fixture
def documents(tmp_path):
    """A JSONL file of 40 documents of 3 to 12 words, no word twice."""
    lines, word = [], 0
    for index in range(40):
        size = 3 + index % 10
        text = " ".join(f"w{i}" for i in range(word, word + size))
        lines.append(f'{{"text": "{text}", "id": {index}}}')
        word += size
    path = tmp_path / "documents.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.parametrize("source", ["numbered", "documents"])
def test_a_set_comes_again_from_the_same_source_and_seed(source, request):
    path = request.getfixturevalue(source)
    first, again = _load(path, seed=3), _load(path, seed=3)
    assert torch.equal(first.tokens, again.tokens)
    assert first.fingerprint == again.fingerprint


@pytest.mark.parametrize("source", ["numbered", "documents"])
def test_another_seed_gives_other_samples(source, request):
    path = request.getfixturevalue(source)
    fingerprints = {_load(path, seed=seed).fingerprint for seed in range(5)}
    assert len(fingerprints) == 5


def test_the_global_generators_are_neither_read_nor_changed(numbered):
    torch.manual_seed(1)
    first = _load(numbered)
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(_load(numbered).tokens, first.tokens)
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("samples", "seq_len"), [(1, 2), (5, 16), (7, 30)])
def test_a_set_has_the_size_that_was_asked_for(numbered, samples, seq_len):
    calibration = _load(numbered, samples=samples, seq_len=seq_len)
    assert calibration.tokens.shape == (samples, seq_len)
    assert calibration.tokens.dtype == torch.int64
    assert (calibration.samples, calibration.seq_len) == (samples, seq_len)


def test_a_set_says_where_it_came_from(numbered):
    calibration = _load(numbered, seed=8)
    assert (calibration.source, calibration.split, calibration.seed) == (str(numbered), "file", 8)


def test_windows_of_a_text_are_runs_that_start_at_multiples_of_their_length(numbered):
    for row in _load(numbered, samples=20).tokens.tolist():
        assert row == list(range(row[0], row[0] + 16))
        assert (row[0] - 3) % 16 == 0  # w0 is token 3


@pytest.mark.parametrize("seed", range(3))
def test_windows_of_a_text_do_not_overlap(numbered, seed):
    tokens = _load(numbered, samples=62, seed=seed).tokens
    assert len(tokens.unique()) == 62 * 16


def test_windows_are_drawn_from_the_whole_text(numbered):
    starts = torch.cat([_load(numbered, seed=seed).tokens[:, 0] for seed in range(40)])
    assert len(starts.unique()) > 50  # of 62
    assert starts.max() > 900


def test_all_windows_of_a_text_can_be_had(numbered):
    tokens = _load(numbered, samples=62).tokens
    assert sorted(tokens.flatten().tolist()) == list(range(3, 3 + 62 * 16))


def _packed(path, **options) -> list[list[int]]:
    """The documents of a packed set: runs between the end-of-text tokens (1)."""
    runs, run = [], []
    for token in _load(path, **options).tokens.flatten().tolist():
        if token == 1:
            runs.append(run)
            run = []
        else:
            run.append(token)
    return [*runs, run]


def test_documents_are_joined_by_the_end_of_text(documents):
    whole = {tuple(run) for run in _packed(documents, samples=8, seq_len=40)[:-1]}
    ends = [0]
    for index in range(40):
        ends.append(ends[-1] + 3 + index % 10)
    expected = {tuple(range(a + 3, b + 3)) for a, b in pairwise(ends)}
    assert whole <= expected
    assert len(whole) > 30


def test_documents_are_shuffled(documents):
    runs = [run for run in _packed(documents, samples=8, seq_len=40) if run]
    assert runs != sorted(runs)
    assert len(runs) == len({run[0] for run in runs})


def test_documents_without_an_end_of_text_token_are_joined_by_nothing(documents):
    calibration = _load(documents, tokenizer=word_tokenizer(eos=False))
    assert calibration.tokens.min() >= 3


def test_too_few_words_in_a_text_are_refused_with_their_number(numbered):
    with pytest.raises(InputError, match=r"has 1,000 tokens, but 63 samples of 16 need 1,008"):
        _load(numbered, samples=63)


def test_too_few_words_in_documents_are_refused_with_their_number(documents):
    tokens = sum(3 + index % 10 for index in range(40)) + 40
    with pytest.raises(InputError, match=f"has {tokens} tokens, but 100 samples of 16 need 1,600"):
        _load(documents, samples=100)


@pytest.mark.parametrize(("samples", "seq_len"), [(0, 16), (-1, 16), (4, 1), (4, 0)])
def test_sizes_too_small_are_refused(numbered, samples, seq_len):
    with pytest.raises(InputError, match="at least 1 sample of 2 tokens"):
        _load(numbered, samples=samples, seq_len=seq_len)


def test_the_builtin_text_needs_no_network_and_no_file(monkeypatch):
    monkeypatch.delenv("BIPCORE_DATA", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    calibration = _load("builtin", samples=8, seq_len=128, tokenizer=byte_tokenizer())
    assert calibration.tokens.shape == (8, 128)
    assert len(calibration.tokens.unique()) > 40


def test_the_builtin_text_comes_again_from_its_seed():
    sets = [
        _load("builtin", samples=4, seq_len=64, seed=seed, tokenizer=byte_tokenizer())
        for seed in (1, 1, 2)
    ]
    assert sets[0].fingerprint == sets[1].fingerprint != sets[2].fingerprint


def test_tokenize_adds_special_tokens_only_when_asked():
    tokenizer = word_tokenizer()
    tokenizer.add_bos_token = True
    assert tokenize(tokenizer, "w0 w1") == [3, 4]


def test_tokenize_is_silent_about_long_texts(caplog):
    tokenizer = word_tokenizer()
    tokenizer.model_max_length = 3
    assert len(tokenize(tokenizer, "w1 " * 50)) == 50
    assert caplog.records == []


def test_the_fingerprint_is_that_of_the_tokens():
    one = CalibrationSet.from_tokens(tiny_tokens())
    assert one.fingerprint == CalibrationSet.from_tokens(tiny_tokens(), source="x").fingerprint
    assert len(one.fingerprint) == 16
    assert int(one.fingerprint, 16) >= 0


def test_the_fingerprint_changes_with_one_token():
    tokens = tiny_tokens()
    before = CalibrationSet.from_tokens(tokens.clone()).fingerprint
    tokens[3, 7] += 1
    assert CalibrationSet.from_tokens(tokens).fingerprint != before


def test_the_fingerprint_changes_with_the_shape():
    tokens = tiny_tokens(4, 12)
    shapes = [tokens, tokens.view(6, 8), tokens.view(1, 48), tokens.T.contiguous()]
    assert len({CalibrationSet.from_tokens(t).fingerprint for t in shapes}) == 4


def test_the_fingerprint_does_not_depend_on_the_integer_type_or_the_layout():
    tokens = tiny_tokens(4, 12)
    same = [tokens, tokens.to(torch.int32), tokens.T.contiguous().T]
    assert len({CalibrationSet.from_tokens(t).fingerprint for t in same}) == 1


def test_tokens_of_one_sample_become_a_set_of_one():
    calibration = CalibrationSet.from_tokens(torch.arange(9), source="mine")
    assert (calibration.samples, calibration.seq_len, calibration.source) == (1, 9, "mine")


@pytest.mark.parametrize(
    "tokens",
    [
        torch.zeros(2, 3),
        torch.zeros(2, 3, 4, dtype=torch.long),
        torch.tensor(5),
        torch.ones(2, 3, dtype=torch.bool),
        torch.zeros(0, 5, dtype=torch.long),
        torch.zeros(5, 0, dtype=torch.long),
        [[1, 2, 3]],
        None,
    ],
    ids=["float", "rank 3", "rank 0", "bool", "no rows", "no columns", "list", "none"],
)
def test_tokens_that_are_no_integer_matrix_are_refused(tokens):
    with pytest.raises(InputError):
        CalibrationSet.from_tokens(tokens)
