"""The first tokens of a text are those of the whole text, and no more is read than they need."""

import random

import pytest
import transformers as tf
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from bipcore.data.calibration import tokenize
from bipcore.data.first_tokens import first_tokens
from bipcore.data.texts import find_text

PIECES = ["the", "a", "Zoë", "naïve", "end.", "x,y", "12345", "don't", "é", "中文", "@-@", "="]
GAPS = [" ", " ", " ", "  ", "\n", " \n\n ", "\t", "   ", "", "\u00a0", "'"]


def _text(seed: int, words: int = 1200) -> str:
    draw = random.Random(seed)
    return "".join(draw.choice(PIECES) + draw.choice(GAPS) for _ in range(words))


def _byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=letters, show_progress=False)
    made.train_from_iterator([_text(9)], trainer)
    return made


def _sentencepiece(unigram: bool = False) -> Tokenizer:
    """As LLaMA's: spaces are letters, nothing is split before it is merged."""
    made = Tokenizer(models.Unigram() if unigram else models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    kind = trainers.UnigramTrainer if unigram else trainers.BpeTrainer
    trainer = kind(
        vocab_size=200,
        special_tokens=["<unk>"],
        show_progress=False,
        **({"unk_token": "<unk>"} if unigram else {}),
    )
    made.train_from_iterator([_text(9)], trainer)
    made.pre_tokenizer = None
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]
    )
    made.decoder = decoders.Metaspace()
    return made


MAKERS = {
    "byte-level": _byte_level,
    "sentencepiece": _sentencepiece,
    "unigram": lambda: _sentencepiece(unigram=True),
}


def _tokenizer(name: str):
    return tf.PreTrainedTokenizerFast(tokenizer_object=MAKERS[name](), unk_token="<unk>")


@pytest.mark.parametrize("name", MAKERS)
def test_the_first_tokens_are_those_of_the_whole_text(name):
    tokenizer = _tokenizer(name)
    for seed in range(6):
        text = _text(seed)
        whole = tokenize(tokenizer, text)
        for count in (2, 17, 100, 101, 333, 5000):
            found = first_tokens(tokenizer, text, count)
            assert found[:count] == whole[:count], (seed, count)


@pytest.mark.parametrize("name", ["byte-level", "sentencepiece", "unigram"])
def test_hardly_more_is_tokenised_than_asked_for(name):
    tokenizer, text = _tokenizer(name), "\n\n".join(find_text("builtin", purpose="test").read())
    found = first_tokens(tokenizer, text, 500)
    assert 500 <= len(found) < len(tokenize(tokenizer, text)) / 3


def test_without_a_number_all_tokens_are_made():
    tokenizer, text = _tokenizer("byte-level"), _text(0)
    assert first_tokens(tokenizer, text, None) == tokenize(tokenizer, text)


def test_of_a_vocabulary_with_words_that_end_in_a_space_the_whole_is_tokenised():
    word = "abcdef "
    parts = [word[:end] for end in range(2, 8)]
    merges = [(part[:-1], part[-1]) for part in parts]
    vocabulary = {entry: index for index, entry in enumerate([*word, *parts])}
    made = tf.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocabulary, merges)))
    assert first_tokens(made, 100 * word, 2)[:2] == [vocabulary[word]] * 2
