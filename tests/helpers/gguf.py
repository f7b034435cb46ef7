"""Tiny models, plans and tokenizers that can be written as GGUF files."""

import io
from functools import cache

import transformers as tf
from sentencepiece import SentencePieceTrainer
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from torch import nn

from bipcore.criteria import score
from bipcore.models.tokenizer import PROBES
from bipcore.pruning.choosing import make_plan
from bipcore.pruning.plan import PruningPlan
from tests.helpers.ropes import ROPES
from tests.helpers.tiny import CONFIGS, random_model

VOCABULARY = 260
_FIELDS = {"gemma2": {"query_pre_attn_scalar": 12}, "gemma3": {"query_pre_attn_scalar": 12}}


def readable_model(name: str, *, vocabulary: int = VOCABULARY) -> nn.Module:
    """The tiny model of a family or of one of `ROPES`, with the tokens of `merging_tokenizer`."""
    base, fields = (name, {}) if name in CONFIGS else ROPES[name]
    config = CONFIGS[base]()
    changed = {**config.to_dict(), **fields, **_FIELDS.get(base, {}), "vocab_size": vocabulary}
    return random_model(type(config)(**changed))


def plan_of(model: nn.Module, **options) -> PruningPlan:
    """A plan for ``model`` by random scores."""
    options = {"sparsity": 0.5} | options
    return make_plan(score(model, None, "random", seed=3), **options)


def merging_tokenizer() -> tf.PreTrainedTokenizerFast:
    """Byte-level BPE as GPT-2 has it, with three merges."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    texts = [*letters, "he", "Ġt", "Ġthe", "</s>"]
    vocabulary = {text: number for number, text in enumerate(texts)}
    merges = [("h", "e"), ("Ġ", "t"), ("Ġt", "he")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


_ENDINGS = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_PATH_ENDINGS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_MARKS = r"[^\r\n\p{L}\p{N}]?"
_LARGE, _SMALL = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
CUTS = {
    "gpt-2": None,
    "smollm": "digits",
    "dbrx": rf"{_SHORT}|{_MARKS}\p{{L}}+|\p{{N}}{{1,3}}|{_ENDINGS}",
    "llama-bpe": rf"{_SHORT}|{_MARKS}\p{{L}}+|\p{{N}}{{1,3}}|{_ENDINGS}",
    "qwen2": rf"{_SHORT}|{_MARKS}\p{{L}}+|\p{{N}}|{_ENDINGS}",
    "tekken": (rf"{_MARKS}{_LARGE}*{_SMALL}+|{_MARKS}{_LARGE}+{_SMALL}*|\p{{N}}|{_PATH_ENDINGS}"),
    "gpt-4o": (
        rf"{_MARKS}{_LARGE}*{_SMALL}+{_SHORT}?|{_MARKS}{_LARGE}+{_SMALL}*{_SHORT}?|"
        rf"\p{{N}}{{1,3}}|{_PATH_ENDINGS}"
    ),
}
"""By llama.cpp's name of a pre-tokenizer the regular expression of what it stands for."""


@cache
def trained_tokenizer(cut: str) -> tf.PreTrainedTokenizerFast:
    """Byte-level BPE trained on a few lines, which are cut as one of `CUTS` says."""
    whole = pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=CUTS[cut] in (None, "digits")
    )
    steps = [whole]
    if CUTS[cut] == "digits":
        steps = [pre_tokenizers.Digits(individual_digits=True), whole]
    elif CUTS[cut]:
        steps = [pre_tokenizers.Split(Regex(CUTS[cut]), "isolated"), whole]
    tokenizer = Tokenizer(models.BPE(ignore_merges=cut in ("llama-bpe", "tekken")))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["</s>"],
        initial_alphabet=letters,
        show_progress=False,
    )
    tokenizer.train_from_iterator(PROBES * 3, trainer)
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")


@cache
def _pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The pieces and merges of a sentencepiece model that is trained on a few lines."""
    from sentencepiece import sentencepiece_model_pb2
    from transformers.tokenization_utils_base import generate_merges

    written = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(PROBES * 3),
        model_writer=written,
        model_type="bpe",
        vocab_size=400,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    said = sentencepiece_model_pb2.ModelProto.FromString(written.getvalue())
    vocabulary = {piece.piece: number for number, piece in enumerate(said.pieces)}
    return vocabulary, generate_merges(vocabulary)


def piece_tokenizer(*, spaced: bool = True) -> tf.PreTrainedTokenizerFast:
    """A tokenizer.json as those of LLaMA 2 are, or without the space before a text, of Gemma."""
    vocabulary, merges = _pieces()
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    before = [normalizers.Prepend("▁")] if spaced else []
    tokenizer.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", "▁")])
    special = [AddedToken(text, normalized=False, special=True) for text in ("<s>", "</s>")]
    tokenizer.add_special_tokens(special)
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
