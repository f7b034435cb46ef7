"""Texts in stated shares: how many samples each gives, which ones, and what is refused."""

import json

import pytest
import torch

from bipcore.cli.main import main
from bipcore.data.calibration import load_calibration
from bipcore.data.mixtures import Part, counts_of, parts_of
from bipcore.errors import InputError
from bipcore.specs import CalibrationSpec, RecoverySpec
from tests.helpers.folders import model_folder
from tests.helpers.tiny import word_tokenizer


@pytest.fixture
def texts(tmp_path):
    """Two texts with no word in common: w0 w1 ... and w500 w501 ..."""
    for letter, first in (("a", 0), ("b", 500)):
        words = " ".join(f"w{number}" for number in range(first, first + 500))
        (tmp_path / f"{letter}.txt").write_text(words)
    return tmp_path / "a.txt", tmp_path / "b.txt"


def _load(source: str, *, samples: int = 10, seed: int = 0, tokenizer=None):
    tokenizer = tokenizer or word_tokenizer()
    return load_calibration(source, tokenizer, samples=samples, seq_len=16, seed=seed)


def _rows(found) -> set[tuple[int, ...]]:
    return set(map(tuple, found.tokens.tolist()))


@pytest.mark.parametrize("samples", [10, 20])
def test_each_text_gives_its_share_and_just_what_it_gives_alone(texts, samples):
    one, other = texts
    tokenizer = word_tokenizer()
    mixture = f"{one}:0.7,{other}:0.3"
    found = _load(mixture, samples=samples, tokenizer=tokenizer)
    most = _rows(_load(str(one), samples=samples * 7 // 10, tokenizer=tokenizer))
    rest = _rows(_load(str(other), samples=samples * 3 // 10, tokenizer=tokenizer))
    assert _rows(found) == most | rest
    assert len(_rows(found)) == len(found.tokens) == samples
    assert (found.source, found.seed) == (mixture, 0)
    assert str(one) in found.split
    assert str(other) in found.split


def test_the_samples_of_the_texts_are_mixed_and_come_again_from_the_seed(texts):
    mixture, tokenizer = ",".join(f"{text}:0.5" for text in texts), word_tokenizer()
    first, again, another = (
        _load(mixture, seed=seed, samples=24, tokenizer=tokenizer) for seed in (1, 1, 2)
    )
    assert torch.equal(first.tokens, again.tokens)
    assert not torch.equal(first.tokens, another.tokens)
    of_one = _rows(_load(str(texts[0]), seed=1, samples=12, tokenizer=tokenizer))
    which = [tuple(row) in of_one for row in first.tokens.tolist()]
    assert which not in (sorted(which), sorted(which, reverse=True))


@pytest.mark.parametrize(
    ("shares", "samples", "counts"),
    [
        ((0.7, 0.3), 10, [7, 3]),
        ((0.5, 0.5), 3, [2, 1]),
        ((0.334, 0.333, 0.333), 4, [2, 1, 1]),
        ((0.1, 0.9), 64, [6, 58]),
    ],
)
def test_shares_become_whole_samples_that_add_up(shares, samples, counts):
    parts = [Part(str(number), share) for number, share in enumerate(shares)]
    assert counts_of(parts, samples) == counts


@pytest.mark.parametrize("source", ["c4", "builtin", "a,b", "notes:3", "c4:0.5,wikitext2", "", ","])
def test_what_is_no_mixture_is_one_text(source):
    assert parts_of(source) == ()


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("c4:0.5,ptb:0.4", "add up to 0.9"),
        ("c4:7,ptb:3", "add up to 10"),
        ("c4:1,ptb:0", "above 0"),
        ("c4:0.5,c4:0.5", "twice"),
        ("builtin:0.5,nowhere.txt:0.5", "nowhere.txt"),
    ],
)
def test_impossible_mixtures_are_refused(source, said):
    with pytest.raises(InputError, match=said):
        CalibrationSpec(source).identity()


def test_a_text_too_small_a_share_of_too_few_samples_is_refused(texts):
    with pytest.raises(InputError, match="is none; ask for more samples"):
        _load(f"{texts[0]}:0.95,{texts[1]}:0.05", samples=5)


def test_the_identity_is_of_the_content_and_the_shares_of_every_text(texts):
    def identity(source: str) -> dict:
        return CalibrationSpec(source).identity()

    one, other = texts
    first = identity(f"{one}:0.5,{other}:0.5")
    assert identity(f"{one}:0.6,{other}:0.4") != first
    assert RecoverySpec(f"{one}:0.5,{other}:0.5").identity()["content"] == first["content"]
    other.write_text(other.read_text() + " more")
    assert identity(f"{one}:0.5,{other}:0.5")["content"] != first["content"]


def test_a_model_is_scored_on_a_mixture(tmp_path, texts, capsys):
    model = str(model_folder(tmp_path / "model"))
    sizes = ("--samples", "4", "--seq-len", "16")
    mixture = f"builtin:0.5,{texts[0]}:0.5"
    assert main(["score", model, "--calibration", mixture, *sizes, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["spec"]["calibration"]["source"] == mixture
    assert main(["score", model, "--calibration", "builtin:0.5,ptb:0.6", *sizes]) == 2
    assert "add up to 1.1" in capsys.readouterr().err
